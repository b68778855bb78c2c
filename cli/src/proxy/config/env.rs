//! Environment variables in values: `$NAME`.

use zeroize::Zeroizing;

/// Replaces a value `$NAME` by the variable of this name. `$$` at the start of a value stands for `$`.
pub(super) fn expand(value: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Zeroizing<String>, String> {
    if let Some(literal) = value.strip_prefix("$$") {
        return Ok(format!("${literal}").into());
    }
    match value.strip_prefix('$') {
        Some(name) => {
            // The name may be a part of a password.
            variable(name)
                .map(Zeroizing::new)
                .ok_or_else(|| "the environment variable is not set ($$ stands for $)".into())
        }
        None => Ok(value.to_owned().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_a_dollar_and_neither() {
        let variable = |name: &str| (name == "A").then(|| "$x".to_owned());
        for (text, value) in [("$A", "$x"), ("$$A", "$A"), ("b$A", "b$A"), ("", "")] {
            assert_eq!(expand(text, variable).as_deref().map(String::as_str), Ok(value), "{text}");
        }
        assert!(expand("$secret", variable).is_err_and(|error| !error.contains("secret")));
    }
}
