//! A list of domains that somebody else maintains, such as the banks of a country that have agreed on TLS.

use std::collections::BTreeSet;

use portcullis::normal_domain;

use super::ReadError;

/// The domains of a table: of its first column in which there are any. A header, comments and blank lines are skipped.
///
/// # Errors
/// Where a domain is wanted and something else stands.
pub fn domains(bytes: &[u8]) -> Result<BTreeSet<String>, ReadError> {
    let text = super::read::decoded(bytes)?;
    let rows: Vec<(usize, Vec<&str>)> = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
        .map(|(number, line)| {
            (
                number + 1,
                line.split([',', ';', '\t'])
                    .map(|cell| cell.trim().trim_matches('"'))
                    .collect(),
            )
        })
        .collect();
    let is_domain = |cell: &str| cell.contains('.') && normal_domain(cell).is_some();
    let first = rows
        .iter()
        .take(2)
        .find_map(|(_, cells)| cells.iter().position(|cell| is_domain(cell)));
    let Some(column) = first else {
        return Err(ReadError::Foreign(
            "there is no domain in the first lines".into(),
        ));
    };
    let mut domains = BTreeSet::new();
    for (index, (line, cells)) in rows.iter().enumerate() {
        let cell = cells.get(column).copied().unwrap_or_default();
        match normal_domain(cell).filter(|_| is_domain(cell)) {
            Some(domain) => drop(domains.insert(domain)),
            // The names of the columns.
            None if index == 0 && !cells.iter().any(|cell| cell.contains(['.', '/', ':'])) => {}
            None => {
                return Err(ReadError::Damaged {
                    line: *line,
                    column: 1,
                    reason: format!("{cell:?} is not a domain"),
                });
            }
        }
    }
    Ok(domains)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_found_in_their_column() {
        let read = |text: &str| {
            domains(text.as_bytes())
                .map(|all| all.into_iter().collect::<Vec<_>>())
                .map_err(|error| error.to_string())
        };
        let expected = Ok(vec!["a.test".to_owned(), "b.test".to_owned()]);
        assert_eq!(read("b.test\nA.test\n"), expected);
        assert_eq!(
            read("\u{feff}Bank;Domain;Since\n\nThe A;a.test;2020\n# old\nThe B;\"B.test\";2021\n"),
            expected
        );
        assert_eq!(read("domain\nb.test\na.test\nb.test"), expected);
        assert_eq!(
            read("a.test\nnot a domain\n"),
            Err("2:1: \"not a domain\" is not a domain".into())
        );
        assert!(read("").is_err() && read("no\nno\na.test").is_err());
    }
}
