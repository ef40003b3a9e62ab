//! `$(NAME)` in commands, arguments and values of variables (Kubernetes, third_party/forked/golang/expansion).

/// Replaces each `$(NAME)` that `value_of` knows. What it does not know stays as it is, and `$$` stands for `$`.
/// `None`: the result would be longer than `limit` bytes; values of values of values can grow without end.
pub fn expand<'a>(text: &str, limit: usize, value_of: impl Fn(&str) -> Option<&'a str>) -> Option<String> {
    let mut expanded = String::with_capacity(text.len().min(limit));
    let mut rest = text;
    // Without a `)` ahead there is no name any more, and no need to look for one again.
    let last_close = text.rfind(')').map(|at| text.len() - at);
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if last_close.is_some_and(|tail| rest.len() >= tail)
            && let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')'))
        {
            match value_of(name) {
                Some(value) => expanded.push_str(value),
                None => expanded.extend(["$(", name, ")"]),
            }
            rest = after;
        } else {
            expanded.push('$');
        }
        if expanded.len() > limit {
            return None;
        }
    }
    expanded.push_str(rest);
    (expanded.len() <= limit).then_some(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kubernetes' own table (expand_test.go).
    #[test]
    fn as_kubernetes_expands() {
        let value_of = |name: &str| match name {
            "VAR_A" => Some("A"),
            "VAR_B" => Some("B"),
            "VAR_C" => Some("C"),
            "VAR_REF" => Some("$(VAR_A)"),
            "VAR_EMPTY" => Some(""),
            _ => None,
        };
        for (input, expected) in [
            ("$(VAR_A)", "A"),
            ("$(VAR_A)-$(VAR_A)", "A-A"),
            ("___$(VAR_B)___", "___B___"),
            ("$(VAR_A)_$(VAR_B)_$(VAR_C)", "A_B_C"),
            ("$$(VAR_B)_$(VAR_A)", "$(VAR_B)_A"),
            ("$$(VAR_A)_$$(VAR_B)", "$(VAR_A)_$(VAR_B)"),
            ("f000-$$VAR_A", "f000-$VAR_A"),
            ("foo\\$(VAR_C)bar", "foo\\Cbar"),
            ("$(VAR_A$(VAR_B))", "$(VAR_A$(VAR_B))"),
            ("$(VAR_A$(VAR_B)", "$(VAR_A$(VAR_B)"),
            ("$(VAR_REF)", "$(VAR_A)"),
            ("%%$(VAR_REF)--$(VAR_REF)%%", "%%$(VAR_A)--$(VAR_A)%%"),
            ("foo$(VAR_EMPTY)bar", "foobar"),
            ("foo$(VAR_Awhoops!", "foo$(VAR_Awhoops!"),
            ("f00__(VAR_A)__", "f00__(VAR_A)__"),
            ("$?_boo_$!", "$?_boo_$!"),
            ("$VAR_A", "$VAR_A"),
            ("$(VAR_DNE)", "$(VAR_DNE)"),
            ("$$$$$$(BIG_MONEY)", "$$$(BIG_MONEY)"),
            ("$$$$$$(VAR_A)", "$$$(VAR_A)"),
            ("$$$$$$$(GOOD_ODDS)", "$$$$(GOOD_ODDS)"),
            ("$$$$$$$(VAR_A)", "$$$A"),
            ("$VAR_A)", "$VAR_A)"),
            ("${VAR_A}", "${VAR_A}"),
            ("$(VAR_B)_______$(A", "B_______$(A"),
            ("$(VAR_C)_______$(", "C_______$("),
            ("$(VAR_A)foobarzab$", "Afoobarzab$"),
            ("foo-\\$(VAR_A", "foo-\\$(VAR_A"),
            ("--$($($($($--", "--$($($($($--"),
            ("foo0--$($($($(", "foo0--$($($($("),
            ("$(foo$$var)", "$(foo$$var)"),
            ("\n", "\n"),
            ("$é", "$é"),
        ] {
            assert_eq!(expand(input, 100, value_of).as_deref(), Some(expected), "{input}");
        }
    }
    #[test]
    fn it_does_not_grow_without_end() {
        let value = "x".repeat(60);
        let value_of = |_: &str| Some(value.as_str());
        assert_eq!(expand("$(A)", 60, value_of).map(|text| text.len()), Some(60));
        assert_eq!(expand("$(A)y", 60, value_of), None);
        assert_eq!(expand(&"$(A)".repeat(1 << 20), 60, value_of), None);
        assert_eq!(expand(&"$(".repeat(1 << 20), 4 << 20, value_of).map(|text| text.len()), Some(2 << 20));
    }
}
