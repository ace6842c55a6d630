//! Who may send mail to whom. README.md says how it is built and tried.

use portcullis_policy::{Context, Direction, Fact, TlsLevel, Verdict, domain, policy};

policy!(evaluate, reads: [Fact::MailFrom]);

const BLOCKED: &[&str] = &["blocked.example"];

/// Decides about one recipient of one message.
fn evaluate(context: &Context) -> Verdict {
    if BLOCKED.contains(&&*domain(&context.mail_from)) {
        return Verdict::reject("blocked", "not from there");
    }
    match context.direction {
        Direction::Inbound => Verdict::accept(),
        // Mail that the organization sends needs a route, and what the next hop must show.
        Direction::Outbound => Verdict::deliver(TlsLevel::Opportunistic),
    }
}
