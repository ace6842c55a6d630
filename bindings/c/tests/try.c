/* Loads a policy and asks it twice: what the tests see of the library.
 *
 *     try POLICY inbound|outbound [MILLISECONDS [MEMORY]]
 *
 * Each line is `load` or `decide`, then `ok` or the number of the error's kind, then what is told. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "portcullis_policy.h"

static void tell(const char *what, pc_error *error)
{
    if (error == NULL)
        printf("%s ok", what);
    else
        printf("%s %d %s", what, (int)pc_error_get_kind(error), pc_error_message(error));
    pc_error_free(error);
}

int main(int count, char **arguments)
{
    static unsigned char octets[32 << 20];
    FILE *file = fopen(arguments[1], "rb");
    size_t length = fread(octets, 1, sizeof octets, file);
    fclose(file);
    const pc_limits limits = {.timeout_ms = count > 3 ? (unsigned)atoi(arguments[3]) : 0,
                              .memory = count > 4 ? strtoull(arguments[4], NULL, 10) : 0};
    pc_engine *engine;
    pc_error *error = pc_engine_new(&limits, &engine);
    if (error != NULL) {
        tell("engine", error);
        return 1;
    }
    pc_policy *policy;
    error = pc_policy_load(engine, octets, length, &policy);
    bool is_loaded = error == NULL;
    tell("load", error);
    printf("\n");
    if (is_loaded) {
        pc_session *session = pc_session_new(policy);
        pc_policy_free(policy); /* the session keeps it */
        pc_context context = {
            .direction = strcmp(arguments[2], "inbound") == 0 ? PC_INBOUND : PC_OUTBOUND,
            .client = {PC_CLIENT_KNOWN, {false, {203, 0, 113, 7}}},
            .security = PC_SECURITY_PLAINTEXT,
            .mail_from = "alice@contosobank.com",
            .rcpt_to = "bob@contosobank.com",
            .header_kind = PC_HEADER_PENDING,
        };
        for (int time = 0; time < 2; time++) {
            pc_decision decision;
            error = pc_decide(session, &context, &decision);
            tell("decide", error);
            const char *enhanced = decision.enhanced, *failed = decision.failed, *name = decision.connector;
            printf(" | verdict %d code %u %s %s connector %s text %.60s hosts %zu level %d\n", (int)decision.verdict,
                   decision.code, enhanced ? enhanced : "-", failed ? failed : "-", name ? name : "-",
                   decision.text ? decision.text : "-", decision.smart_host_count, (int)decision.tls.level);
            pc_decision_free(&decision);
        }
        pc_session_free(session);
    }
    pc_engine_free(engine);
    return 0;
}
