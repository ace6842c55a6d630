// Who may send mail to whom. README.md says how it is built and tried.

#include "interface.h"

static const enum fact FACTS[] = {FACT_MAIL_FROM};
const struct facts READS = {FACTS, COUNT(FACTS)};

static const char *const BLOCKED[] = {"blocked.example"};

static bool is_blocked(struct string domain) {
    for (size_t i = 0; i < COUNT(BLOCKED); i++)
        if (equals(domain, BLOCKED[i]))
            return true;
    return false;
}

// Decides about one recipient of one message.
struct verdict evaluate(const struct context *context) {
    if (is_blocked(domain(context->mail_from)))
        return reject(string("blocked"), string("not from there"));
    if (context->direction == DIRECTION_INBOUND)
        return accept();
    // Mail that the organization sends needs a route, and what the next hop must show.
    return deliver((struct tls_level){.tag = TLS_LEVEL_OPPORTUNISTIC});
}
