//! A YAML text as a tree whose nodes know their lines.
//!
//! Aliases share what they name, so they cost no memory; they count as if they were written out, which keeps whoever
//! walks the tree from walking for ever.

use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
};

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag};

use super::{error::ManifestError, scalar};

/// Most nodes of a document, aliases written out. A Pod of the greatest size that an API server keeps has fewer.
const MAX_NODES: usize = 100_000;
/// Deepest nesting. A Pod's fields are some ten levels deep.
const MAX_DEPTH: usize = 64;

/// A value and where it stands.
#[derive(Debug, PartialEq, Eq)]
pub struct Node {
    /// Line in the file, from 1.
    pub line: usize,
    /// What it is.
    pub value: Value,
    /// How many nodes it is made of, itself included.
    nodes: usize,
}

/// A value.
#[derive(Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// A scalar; what it means depends on what is looked for.
    Scalar {
        /// Its text.
        text: String,
        /// Written without quotes: it may be a number or a truth value.
        plain: bool,
    },
    /// A sequence.
    List(Vec<Rc<Node>>),
    /// A mapping in the order of the file.
    Map(Vec<(String, Rc<Node>)>),
}

/// Reads the one document of a text. Documents that hold nothing do not count.
pub fn parse(text: &str) -> Result<Rc<Node>, ManifestError> {
    let mut builder = Builder::default();
    let mut parser = Parser::new(StrInput::new(text));
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| syntax(error.marker().line(), error.info()))?;
        builder.take(event, span)?;
    }
    builder.document.ok_or(ManifestError::Empty)
}

fn syntax(line: usize, problem: impl Into<String>) -> ManifestError {
    ManifestError::Syntax { line, problem: problem.into() }
}

/// A collection whose end has not come yet.
struct Open {
    line: usize,
    anchor: usize,
    nodes: usize,
    content: Content,
}

enum Content {
    List(Vec<Rc<Node>>),
    Map { entries: Vec<(String, Rc<Node>)>, seen: HashSet<String>, key: Option<String> },
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
    document: Option<Rc<Node>>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), ManifestError> {
        let line = span.start.line();
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar(text.into_owned(), style, tag.as_deref(), line)?;
                self.add(Node { line, value, nodes: 1 }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.begin(line, anchor, tag.as_deref(), Content::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                let content = Content::Map { entries: Vec::new(), seen: HashSet::new(), key: None };
                self.begin(line, anchor, tag.as_deref(), content)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned();
                self.put(node.ok_or_else(|| syntax(line, "an alias within what it names"))?, line)
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
        }
    }

    fn begin(
        &mut self,
        line: usize,
        anchor: usize,
        tag: Option<&Tag>,
        content: Content,
    ) -> Result<(), ManifestError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(syntax(line, format!("it is nested more than {MAX_DEPTH} levels deep")));
        }
        let suffix = if matches!(content, Content::List(_)) { "seq" } else { "map" };
        if let Some(tag) = tag
            && !(tag.is_yaml_core_schema() && tag.suffix == suffix)
        {
            return Err(foreign(tag, line));
        }
        self.open.push(Open { line, anchor, nodes: 1, content });
        Ok(())
    }

    fn end(&mut self) -> Result<(), ManifestError> {
        let Some(Open { line, anchor, nodes, content }) = self.open.pop() else { return Ok(()) };
        let value = match content {
            Content::List(list) => Value::List(list),
            Content::Map { entries, .. } => Value::Map(entries),
        };
        self.add(Node { line, value, nodes }, anchor)
    }

    fn add(&mut self, node: Node, anchor: usize) -> Result<(), ManifestError> {
        let line = node.line;
        let node = Rc::new(node);
        // The parser numbers anchors from 1.
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        self.put(node, line)
    }

    /// Puts a node where it belongs: into the collection that is open, as a key or as a value, or at the top.
    fn put(&mut self, node: Rc<Node>, line: usize) -> Result<(), ManifestError> {
        let Some(open) = self.open.last_mut() else { return self.put_document(node, line) };
        open.nodes += node.nodes;
        if open.nodes > MAX_NODES {
            return Err(syntax(line, format!("it holds more than {MAX_NODES} values, aliases written out")));
        }
        match &mut open.content {
            Content::List(list) => list.push(node),
            Content::Map { entries, seen, key } => match key.take() {
                Some(key) => entries.push((key, node)),
                None => *key = Some(new_key(&node, seen, line)?),
            },
        }
        Ok(())
    }

    fn put_document(&mut self, node: Rc<Node>, line: usize) -> Result<(), ManifestError> {
        self.anchors.clear();
        if node.value == Value::Null {
            return Ok(());
        }
        if self.document.is_some() {
            return Err(ManifestError::SecondDocument { line });
        }
        self.document = Some(node);
        Ok(())
    }
}

fn new_key(node: &Node, seen: &mut HashSet<String>, line: usize) -> Result<String, ManifestError> {
    let Value::Scalar { text, plain } = &node.value else {
        return Err(syntax(line, "the name of a field must be a text"));
    };
    if *plain && scalar::is_changed_name(text) {
        return Err(syntax(line, format!("as the name of a field, {}", scalar::no_text(&node.value))));
    }
    if !seen.insert(text.clone()) {
        return Err(syntax(line, format!("{text} is there twice: take one out")));
    }
    Ok(text.clone())
}

fn scalar(text: String, style: ScalarStyle, tag: Option<&Tag>, line: usize) -> Result<Value, ManifestError> {
    let plain = match tag {
        None => style == ScalarStyle::Plain,
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => false,
        // `!` alone says that it is a text.
        Some(tag) if tag.handle.is_empty() && tag.suffix == "!" => false,
        Some(tag)
            if tag.is_yaml_core_schema() && matches!(&*tag.suffix, "int" | "bool" | "float" | "null") =>
        {
            true
        }
        Some(tag) => return Err(foreign(tag, line)),
    };
    let null = plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
    Ok(if null { Value::Null } else { Value::Scalar { text, plain } })
}

fn foreign(tag: &Tag, line: usize) -> ManifestError {
    syntax(line, format!("the tag {}{} does not fit here: take it out", tag.handle, tag.suffix))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn lines_are_those_of_the_file() {
        let node = parse("# a comment\na:\n- 1\n- b: {c: 'd'}\n").unwrap();
        let Value::Map(top) = &node.value else { panic!() };
        let Value::List(list) = &top[0].1.value else { panic!() };
        assert_eq!((node.line, list[0].line, list[1].line), (2, 3, 4));
        assert_eq!(list[0].value, Value::Scalar { text: "1".into(), plain: true });
        let Value::Map(map) = &list[1].value else { panic!() };
        let Value::Map(inner) = &map[0].1.value else { panic!() };
        assert_eq!(inner[0].1.value, Value::Scalar { text: "d".into(), plain: false });
    }

    #[test]
    fn what_is_null_and_what_is_a_text() {
        let Value::Map(map) = &parse("a:\nb: ~\nc: ''\nd: !!str 5\ne: !!int 5\nf: ! 5").unwrap().value else {
            panic!()
        };
        let kinds: Vec<_> = map
            .iter()
            .map(|(_, node)| match &node.value {
                Value::Null => "null",
                Value::Scalar { plain: true, .. } => "plain",
                _ => "text",
            })
            .collect();
        assert_eq!(kinds, ["null", "null", "text", "text", "plain", "text"]);
    }

    #[test]
    fn one_document() {
        assert_eq!(parse(""), Err(ManifestError::Empty));
        assert_eq!(parse("---\n# nothing\n---\n"), Err(ManifestError::Empty));
        assert!(parse("---\na: 1\n---\n").is_ok());
        assert_eq!(parse("a: 1\n---\nb: 1\n"), Err(ManifestError::SecondDocument { line: 3 }));
    }

    #[test]
    fn json_is_yaml() {
        assert_eq!(parse("{\"a\": [\"b\", 1]}").unwrap().nodes, 5);
    }

    #[test]
    fn what_is_refused_names_its_line() {
        for (text, expected) in [
            ("kind: [", "line 2: while parsing"),
            ("a: 1\na: 2\n", "line 2: a is there twice"),
            ("a: &x\n- *x\n", "line 2: an alias within what it names"),
            ("a: !!binary aGk=\n", "line 1: the tag"),
            ("a: !mine {}\n", "line 1: the tag !mine"),
            ("? [a]\n: b\n", "line 1: the name of a field must be a text"),
            ("a: b\ny: c\n", "line 2: as the name of a field, y without quotes is true in YAML 1.1"),
            ("017: c\n", "line 1: as the name of a field, 017 without quotes is a number"),
            ("a: *nobody\n", "line 1"),
            ("a:\n\t- b\n", "line 2"),
        ] {
            assert!(problem(text).starts_with(expected), "{text:?}: {}", problem(text));
        }
    }

    #[test]
    fn aliases_share_and_count() {
        use std::fmt::Write;
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..30 {
            let names = vec![format!("*a{}", level - 1); 10].join(", ");
            let _ = writeln!(text, "a{level}: &a{level} [{names}]");
        }
        assert!(problem(&text).contains("more than 100000 values"), "{}", problem(&text));
        assert!(parse("a: &x [1, 2]\nb: *x\nc: *x\n").is_ok());
    }

    #[test]
    fn deep_texts_end_soon() {
        for opening in ["[", "{a: ", "- ", "? "] {
            let text = opening.repeat(200_000);
            // The parser has a limit of its own for what stands in brackets.
            let found = problem(&text);
            assert!(found.contains("nested") || found.contains("recursion limit"), "{opening}: {found}");
        }
    }
}
