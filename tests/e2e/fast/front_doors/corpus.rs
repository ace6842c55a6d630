//! The conformance kit through each front door: each case whose facts it can tell has the verdict that it should have.

use std::collections::BTreeSet;
use std::path::Path;
use std::{fs, thread};

use portcullis_tests::conformance::{Kind, Report, conforms};
use portcullis_tests::ways::{NO_CONTEXT, OUTBOUND};

use crate::conformance::WAY;

/// What no server asks about.
const NO_QUESTIONS: [&str; 2] = [NO_CONTEXT, OUTBOUND];

const BEGIN: &str = "<!-- what a test has asked by each way -->\n";
const END: &str = "<!-- end -->\n";

/// The table of the documentation says how many cases of the corpus each way can tell, and what it cannot.
/// `UPDATE_GOLDEN=1` writes it.
#[test]
fn each_way_has_the_replies_of_a_session() {
    let ways = thread::scope(|scope| {
        let ways = [
            ("Postfix", "postfix"),
            ("Exim", "exim"),
            ("milter (Sendmail)", "milter"),
            ("HTTP", "http"),
        ];
        let played = ways.map(|(name, way)| {
            let play = move || conforms(Kind::Documents, &[WAY, way], &[]);
            (name, scope.spawn(play))
        });
        played.map(|(name, report)| (name, report.join().expect("a report")))
    });
    let expected = table(&ways);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/integrations/README.md");
    let text = fs::read_to_string(&path).expect("the page");
    let (before, rest) = text.split_once(BEGIN).expect("the beginning of the table");
    let (found, after) = rest.split_once(END).expect("the end of the table");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{expected}{END}{after}")).expect("it is written");
        return;
    }
    assert_eq!(
        found, expected,
        "docs/integrations/README.md tells of other cases than were asked; UPDATE_GOLDEN=1 writes it"
    );
}

fn table(ways: &[(&str, Report)]) -> String {
    let facts: BTreeSet<&str> = ways
        .iter()
        .flat_map(|(_, it)| it.skipped.keys().map(String::as_str))
        .filter(|reason| !NO_QUESTIONS.contains(reason))
        .collect();
    let row = |name: &str, value: &dyn Fn(&Report) -> usize| {
        let cells: String = ways
            .iter()
            .map(|(_, played)| match value(played) {
                0 => " |".to_owned(),
                count => format!(" {count} |"),
            })
            .collect();
        format!("| {name} |{cells}\n")
    };
    let names: String = ways.iter().map(|(name, _)| format!(" {name} |")).collect();
    let mut table = format!("| |{names}\n|---|{}\n", "---|".repeat(ways.len()));
    table += &row("same verdict as in the conformance kit", &|played| {
        played.passed
    });
    for fact in facts {
        table += &row(&format!("not told: {fact}"), &|played| {
            played.skipped.get(fact).copied().unwrap_or_default()
        });
    }
    table
}
