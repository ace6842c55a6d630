//! The configuration as it is in force, defaults included.

use std::fmt::Write;

use toml::{Table, Value};

use super::raw::RawConfig;

impl RawConfig {
    /// The whole configuration as TOML, from which it can be read again. What is not the default is marked with the
    /// default.
    ///
    /// # Errors
    /// If there is something in it that TOML cannot say, such as a path that is not UTF-8.
    pub fn show(&self) -> Result<String, toml::ser::Error> {
        let own = Table::try_from(self.with_defaults())?;
        let defaults = Table::try_from(RawConfig::default().with_defaults())?;
        let mut text = String::new();
        for (key, value) in own.iter().filter(|(_, value)| !is_section(value)) {
            line(&mut text, key, value, None);
        }
        for (key, value) in &own {
            match value {
                Value::Table(table) => {
                    let known = defaults.get(key).and_then(Value::as_table);
                    section(&mut text, &format!("[{key}]"), table, known);
                }
                Value::Array(tables) if is_section(value) => {
                    for table in tables.iter().filter_map(Value::as_table) {
                        section(&mut text, &format!("[[{key}]]"), table, None);
                    }
                }
                _ => {}
            }
        }
        Ok(text)
    }

    /// What is left out, as it is then.
    pub(super) fn with_defaults(&self) -> RawConfig {
        let mut config = self.clone();
        // Whoever keeps it in another folder means the same files.
        config.resolve(&std::env::current_dir().unwrap_or_default());
        let (limits, compiling) = (self.sandbox.limits(), self.sandbox.compile_limits());
        let octets = |octets: usize| Some(bytesize::ByteSize(octets as u64));
        let sandbox = &mut config.sandbox;
        sandbox.memory = octets(limits.memory);
        sandbox.evaluation = Some(limits.evaluation);
        sandbox.stack = octets(limits.stack);
        sandbox.table_elements = Some(limits.table_elements);
        sandbox.instances = Some(limits.instances);
        sandbox.retained_memory = octets(limits.retained_memory);
        sandbox.policy_size = octets(limits.policy_size);
        sandbox.code = Some(bytesize::ByteSize(limits.code));
        sandbox.compile_time = Some(compiling.time);
        sandbox.compile_memory = Some(bytesize::ByteSize(compiling.memory));
        config.delivery.state_directory = self.delivery.state_folder();
        for listener in &mut config.listeners {
            listener.client_names = Some(listener.wants_client_names());
        }
        config
    }
}

fn is_section(value: &Value) -> bool {
    match value {
        Value::Table(_) => true,
        Value::Array(items) => items.first().is_some_and(Value::is_table),
        _ => false,
    }
}

fn section(text: &mut String, heading: &str, table: &Table, defaults: Option<&Table>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "\n{heading}");
    for (key, value) in table {
        let default = defaults.map(|defaults| defaults.get(key));
        line(text, key, value, default);
    }
}

fn line(text: &mut String, key: &str, value: &Value, default: Option<Option<&Value>>) {
    let _ = write!(text, "{key} = {value}");
    match default {
        Some(Some(default)) if default != value => {
            let _ = write!(text, " # default: {default}");
        }
        Some(None) => text.push_str(" # not set by default"),
        _ => {}
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_is_shown_is_read_as_the_same() {
        let text = r#"
            hostname = "mx.contoso.com"
            [[listener]]
            address = "0.0.0.0:25"
            certificate = "mx.pem"
            key = "mx.key"
            proxy-protocol = ["10.0.0.1"]
            next-hop = { smtp = "10.0.0.5:25", xclient = true }
            [[tenant]]
            name = "contoso"
            domains = ["contoso.com", "*.contoso.com"]
            policy = "contoso.json"
            [limits]
            message-size = "26214401B"
            [timeouts]
            command = "90s"
            [trust]
            additional-roots = ["a.pem", "b.pem"]
        "#;
        let mut config = RawConfig::read(text).unwrap();
        config.resolve(Path::new("/etc/portcullis"));
        let shown = config.show().unwrap();
        for line in [
            "hostname = \"mx.contoso.com\"",
            "message-size = \"26214401B\" # default: \"50MiB\"",
            "command = \"1m 30s\" # default: \"5m\"",
            "sessions = 2000",
            "policy = \"/etc/portcullis/contoso.json\"",
            "client-names = true",
        ] {
            assert!(shown.lines().any(|own| own == line), "{line}\n{shown}");
        }
        let mut again = RawConfig::read(&shown).unwrap();
        again.resolve(Path::new("/elsewhere"));
        assert_eq!(again.show().unwrap(), shown);
    }
}
