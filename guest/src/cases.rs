//! The cases under `tests`: a context and what must become of it.

use alloc::format;

use serde_json::Value;

use portcullis_types::is_part_of;

use crate::context;
use crate::fields;
use crate::json::Node;
use crate::problems::{Path, Problems};
use crate::reader::Object;
use crate::text::shorten;
use crate::{Policy, Verdict};

/// Runs the cases and notes those that fail.
pub fn run(policy: &Policy, cases: &[Node], problems: &mut Problems) {
    let root = Path::Root.field("tests");
    for (index, node) in cases.iter().enumerate() {
        run_one(policy, *node, &root.element(index), problems);
    }
}

fn run_one(policy: &Policy, node: Node, path: &Path, problems: &mut Problems) -> Option<()> {
    let object = Object::read(node, path, &[fields::CASE], problems)?;
    let name = object.required_string("name", problems);
    let (context_node, context_path) = object.required("context", problems)?;
    let context = context::read(context_node, &context_path, problems);
    let (expect, expect_path) = object.required("expect", problems)?;
    let expected = Object::read(expect, &expect_path, &[fields::EXPECTATION], problems)?;
    expected.required("verdict", problems)?;
    let verdict = to_json(policy.evaluate(&context?));
    for member in expect.members()? {
        let path = expect_path.field(&member.key);
        let Ok(expected) = serde_json::from_str::<Value>(member.value.text()) else {
            let message = "this is not something that a verdict can have".into();
            problems.error("wrong-type", path, member.value.span(), message, None);
            return None;
        };
        let found = verdict.get(&*member.key).unwrap_or(&Value::Null);
        if !is_part_of(&expected, found) {
            let message = format!(
                "the test \"{}\" fails: {} is {}, not {}",
                shorten(&name.unwrap_or_default()),
                member.key,
                shorten(&format!("{found}")),
                shorten(&format!("{expected}"))
            );
            let hint = Some(format!("the verdict is {verdict}"));
            problems.error("failed-test", path, member.value.span(), message, hint);
            return None;
        }
    }
    Some(())
}

/// The JSON form of a verdict, with what it leaves out: a case may expect that too.
fn to_json(verdict: Verdict) -> Value {
    let verdict = portcullis_types::Verdict::from(verdict);
    let mut value = serde_json::to_value(&verdict).unwrap_or_default();
    portcullis_types::write_defaults(&mut value);
    value
}
