//! A rule before the connectors, and one behind them: docs/policies.md.

use portcullis_policy::{Context, Fact, Verdict, domain, middleware, next};

middleware!(evaluate, reads: [Fact::MailFrom, Fact::RcptTo]);

fn evaluate(context: &Context) -> Verdict {
    // Before: nobody from there, whatever the connectors say.
    if domain(&context.mail_from).ends_with(".blocked.example") {
        return Verdict::reject("blocked", "not from there");
    }
    let verdict = next(context);
    // Behind: what is refused to this mailbox is tried again until somebody has looked.
    match verdict {
        Verdict::Reject(refusal) if context.rcpt_to.starts_with("migration@") => {
            Verdict::defer(&refusal.failed, &refusal.text)
        }
        verdict => verdict,
    }
}
