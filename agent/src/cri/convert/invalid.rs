//! What is wrong with a request, and in which field.

/// A field of a request that cannot be acted on. It is answered with InvalidArgument.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A message or string that CRI requires.
    #[error("{field} is missing")]
    Missing {
        /// Path of the field.
        field: String,
    },
    /// An enum number that this CRI level does not know, or one that makes no sense here.
    #[error("{field}: {value} is not one of {allowed}")]
    Choice {
        /// Path of the field.
        field: String,
        /// What was given.
        value: String,
        /// What may be given.
        allowed: &'static str,
    },
    /// A number out of its range.
    #[error("{field}: {value} is not between {min} and {max}")]
    Range {
        /// Path of the field.
        field: String,
        /// What was given.
        value: i64,
        /// Smallest value.
        min: i64,
        /// Largest value.
        max: i64,
    },
    /// A text that is not of the form that the field has.
    #[error("{field}: {value:?} {problem}")]
    Text {
        /// Path of the field.
        field: String,
        /// What was given.
        value: String,
        /// What is wrong with it, and what would be right.
        problem: &'static str,
    },
    /// A field that does not go together with another one.
    #[error("{field} {problem}")]
    Conflict {
        /// Path of the field.
        field: String,
        /// With what, and what would be right.
        problem: &'static str,
    },
}

impl Invalid {
    pub(super) fn missing(field: impl Into<String>) -> Self {
        Self::Missing { field: field.into() }
    }

    pub(super) fn conflict(field: impl Into<String>, problem: &'static str) -> Self {
        Self::Conflict { field: field.into(), problem }
    }

    pub(super) fn text(field: impl Into<String>, value: &str, problem: &'static str) -> Self {
        Self::Text { field: field.into(), value: value.to_owned(), problem }
    }

    #[expect(clippy::needless_pass_by_value, reason = "numbers and names are cheap to hand over")]
    pub(super) fn choice(field: impl Into<String>, value: impl ToString, allowed: &'static str) -> Self {
        Self::Choice { field: field.into(), value: value.to_string(), allowed }
    }

    /// The same error as seen from the message that holds the field.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        let field = self.field_mut();
        *field = if field.is_empty() { outer.to_owned() } else { format!("{outer}.{field}") };
        self
    }

    /// Path of the field, outermost message first: `config.linux.security_context.run_as_user`.
    pub fn field(&self) -> &str {
        match self {
            Self::Missing { field }
            | Self::Choice { field, .. }
            | Self::Range { field, .. }
            | Self::Text { field, .. }
            | Self::Conflict { field, .. } => field,
        }
    }

    fn field_mut(&mut self) -> &mut String {
        match self {
            Self::Missing { field }
            | Self::Choice { field, .. }
            | Self::Range { field, .. }
            | Self::Text { field, .. }
            | Self::Conflict { field, .. } => field,
        }
    }
}

impl From<Invalid> for tonic::Status {
    fn from(invalid: Invalid) -> Self {
        Self::invalid_argument(invalid.to_string())
    }
}

/// Refuses what is for Windows, if it says anything: a limit that is not heeded is worse than an error.
pub fn not_windows<T: Default + PartialEq>(windows: Option<T>) -> Result<(), Invalid> {
    match windows.filter(|windows| *windows != T::default()) {
        Some(_) => Err(Invalid::conflict("windows", "is set, but this node runs Linux")),
        None => Ok(()),
    }
}

/// Errors of a part, seen from the whole.
pub(super) trait Within<T> {
    fn within(self, outer: &str) -> Result<T, Invalid>;
}

impl<T> Within<T> for Result<T, Invalid> {
    fn within(self, outer: &str) -> Result<T, Invalid> {
        self.map_err(|invalid| invalid.within(outer))
    }
}

/// Converts every item; an error says which one.
pub(super) fn each<T, U>(
    field: &str,
    items: Vec<T>,
    mut convert: impl FnMut(T) -> Result<U, Invalid>,
) -> Result<Vec<U>, Invalid> {
    items.into_iter().enumerate().map(|(i, item)| convert(item).within(&format!("{field}[{i}]"))).collect()
}

/// A number within limits.
pub(super) fn in_range(field: &str, value: i64, min: i64, max: i64) -> Result<i64, Invalid> {
    if (min..=max).contains(&value) {
        Ok(value)
    } else {
        Err(Invalid::Range { field: field.to_owned(), value, min, max })
    }
}

/// A uid or gid. The kernel keeps `(uid_t)-1` for "no change".
pub(super) fn unix_id(field: &str, value: i64) -> Result<i64, Invalid> {
    in_range(field, value, 0, i64::from(u32::MAX) - 1)
}

/// The identifiers among many that are not one are refused by their place in the list.
pub(super) fn unix_ids(field: &str, values: Vec<i64>) -> Result<Vec<i64>, Invalid> {
    each(field, values, |value| unix_id("", value))
}
