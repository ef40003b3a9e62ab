//! YAML into types. What a plain scalar means is decided by what is looked for: `name: 0` is a text there and a number
//! elsewhere, as with the YAML library of Kubernetes, which vendors try their files with.

use std::{fmt, rc::Rc};

use serde::de::{
    DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Visitor,
    value::{MapDeserializer, SeqDeserializer},
};

use crate::manifest::ManifestError;
use crate::manifest::yaml::{Node, Value, parse};

/// What is wrong, with its line.
#[derive(Debug)]
struct Error {
    line: Option<usize>,
    problem: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.problem),
            None => f.write_str(&self.problem),
        }
    }
}

impl std::error::Error for Error {}

impl serde::de::Error for Error {
    fn custom<T: fmt::Display>(problem: T) -> Self {
        Self { line: None, problem: problem.to_string() }
    }
}

/// Reads the one document of a text.
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let node = parse(text).map_err(|error| match error {
        ManifestError::Empty => "it is empty".to_owned(),
        ManifestError::SecondDocument { line } => format!("line {line}: a second document begins here"),
        error => error.to_string(),
    })?;
    T::deserialize(Of(&node)).map_err(|error| error.to_string())
}

/// A node that is being read.
#[derive(Clone, Copy)]
struct Of<'a>(&'a Node);

impl<'a> Of<'a> {
    fn scalar(self) -> Option<(&'a str, bool)> {
        match &self.0.value {
            Value::Scalar { text, plain } => Some((text, *plain)),
            _ => None,
        }
    }

    /// The innermost line is the one that helps.
    fn here<T>(self, result: Result<T, Error>) -> Result<T, Error> {
        result.map_err(|error| Error { line: error.line.or(Some(self.0.line)), ..error })
    }

    fn number(self) -> Result<i128, Error> {
        let number = self.scalar().filter(|(_, plain)| *plain).and_then(|(text, _)| number(text));
        self.here(number.ok_or_else(|| Error::custom("a whole number is expected")))
    }

    fn integer<T: TryFrom<i128>>(self) -> Result<T, Error> {
        let number = self.number()?;
        self.here(T::try_from(number).map_err(|_| Error::custom(format!("{number} is out of range"))))
    }

    fn list<V: Visitor<'a>>(self, list: &'a [Rc<Node>], visitor: V) -> Result<V::Value, Error> {
        self.here(visitor.visit_seq(SeqDeserializer::new(list.iter().map(|node| Of(node)))))
    }

    fn map<V: Visitor<'a>>(self, map: &'a [(String, Rc<Node>)], visitor: V) -> Result<V::Value, Error> {
        let entries = map.iter().map(|(name, node)| (name.as_str(), Of(node)));
        self.here(visitor.visit_map(MapDeserializer::new(entries)))
    }
}

/// Decimal, or octal, hexadecimal and binary as YAML 1.1 and 1.2 write them.
fn number(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (digits, base) = match (lower.get(..2), lower.strip_prefix('0')) {
        (Some("0x"), _) => (&lower[2..], 16),
        (Some("0o"), _) => (&lower[2..], 8),
        (Some("0b"), _) => (&lower[2..], 2),
        (_, Some(octal)) if !octal.is_empty() => (octal, 8),
        _ => (lower.as_str(), 10),
    };
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    let number = i128::from_str_radix(digits, base).ok()?;
    Some(if negative { -number } else { number })
}

fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Some(true),
        "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

impl<'a> IntoDeserializer<'a, Error> for Of<'a> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

macro_rules! integers {
    ($($name:ident $visit:ident $type:ty),*) => {
        $(fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let number: $type = self.integer()?;
            self.here(visitor.$visit(number))
        })*
    };
}

impl<'de> Deserializer<'de> for Of<'de> {
    type Error = Error;

    integers!(
        deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64, deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32, deserialize_u64 visit_u64 u64
    );

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.0.value {
            Value::Null => self.here(visitor.visit_unit()),
            Value::List(list) => self.list(list, visitor),
            Value::Map(map) => self.map(map, visitor),
            Value::Scalar { text, .. } => self.here(visitor.visit_borrowed_str(text)),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let flag = self.scalar().filter(|(_, plain)| *plain).and_then(|(text, _)| truth(text));
        let flag = self.here(flag.ok_or_else(|| Error::custom("true or false is expected")))?;
        self.here(visitor.visit_bool(flag))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.scalar() {
            Some((text, _)) => self.here(visitor.visit_borrowed_str(text)),
            None => self.here(Err(Error::custom("a text is expected"))),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.0.value {
            Value::Null => self.here(visitor.visit_none()),
            _ => self.here(visitor.visit_some(self)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.here(visitor.visit_newtype_struct(self))
    }

    /// serde would take a list for one as well.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match &self.0.value {
            Value::Map(map) => self.map(map, visitor),
            _ => self.here(Err(Error::custom("a mapping of fields is expected"))),
        }
    }

    serde::forward_to_deserialize_any! {
        i128 u128 f32 f64 char bytes byte_buf unit unit_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Sample {
        text: String,
        number: u32,
        big: Option<i64>,
        flag: bool,
        list: Vec<String>,
        map: Option<BTreeMap<String, String>>,
        inner: Option<Box<Sample>>,
    }

    #[test]
    fn a_scalar_is_what_is_looked_for() {
        let sample: Sample = from_str(
            "text: 0\nnumber: 0666\nbig: -0x10\nflag: yes\nlist: [1, true, 'x', 1.5]\nmap: {a: 1}\ninner:\n  text: ~x\n",
        )
        .unwrap();
        assert_eq!(
            (sample.text.as_str(), sample.number, sample.big, sample.flag),
            ("0", 0o666, Some(-16), true)
        );
        assert_eq!(sample.list, ["1", "true", "x", "1.5"]);
        assert_eq!(sample.map.unwrap()["a"], "1");
        assert_eq!(sample.inner.unwrap().text, "~x");
    }

    #[test]
    fn nothing_is_nothing() {
        let sample: Sample = from_str("big: null\nmap: ~\ninner:\n").unwrap();
        assert_eq!(sample, Sample::default());
        assert!(from_str::<Sample>("").unwrap_err().contains("empty"));
    }

    #[test]
    fn what_is_wrong_has_its_line() {
        for (text, part) in [
            ("text: a\nnumber: x\n", "line 2: a whole number is expected"),
            ("number: '5'\n", "line 1: a whole number is expected"),
            ("number: -1\n", "line 1: -1 is out of range"),
            ("number: 4294967296\n", "line 1: 4294967296 is out of range"),
            ("text: [a]\n", "line 1: a text is expected"),
            ("flag: maybe\n", "line 1: true or false is expected"),
            ("a: 1\n", "unknown field `a`"),
            ("inner:\n  text: a\n  other: 1\n", "line 2: unknown field `other`"),
            ("list: a\n", "line 1: invalid type: string \"a\", expected a sequence"),
            ("text: a\ntext: b\n", "line 2: text is there twice"),
            ("a: 1\n---\nb: 1\n", "line 3: a second document"),
            ("- a\n", "line 1: a mapping of fields is expected"),
            ("inner: a\n", "line 1: a mapping of fields is expected"),
        ] {
            let error = from_str::<Sample>(text).unwrap_err();
            assert!(error.contains(part), "{part} is not in {error}");
        }
    }

    #[test]
    fn numbers() {
        for (text, expected) in [
            ("0", Some(0)),
            ("10", Some(10)),
            ("+7", Some(7)),
            ("0o17", Some(15)),
            ("017", Some(15)),
            ("0b11", Some(3)),
            ("0XfF", Some(255)),
            ("", None),
            ("-", None),
            ("0x", None),
            ("0x-1", None),
            ("--1", None),
            ("08", None),
            ("1e3", None),
            ("1.0", None),
            ("é", None),
            ("0é", None),
        ] {
            assert_eq!(number(text), expected, "{text}");
        }
    }
}
