/*
 * An SMTP responder that asks a policy about each recipient: what embedding takes.
 *
 *     smtp_rcpt policy.wasm inbound|outbound [MILLISECONDS]
 *
 * It serves one connection on standard input and output, as inetd and systemd (Accept=yes, StandardInput=socket) make
 * them, and takes no message. MILLISECONDS are what an evaluation may take.
 */

#define _POSIX_C_SOURCE 200809L

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "portcullis_policy.h"

/* The longest command line and what ends it (RFC 5321 section 4.5.3.1.4), and a zero. */
#define LINE 513
/* Of a reply's text, so that its line has at most 512 octets (section 4.5.3.1.5). */
#define MOST_TEXT 490

static void complain(const char *what, pc_error *error)
{
    fprintf(stderr, "%s: %s\n", what, pc_error_message(error));
    pc_error_free(error);
}

/* The octets of a file, or NULL. */
static void *read_file(const char *path, size_t *length)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return NULL;
    size_t room = 1 << 20;
    char *octets = malloc(room);
    *length = 0;
    while (octets != NULL && (*length += fread(octets + *length, 1, room - *length, file)) == room) {
        char *larger = realloc(octets, room *= 2);
        if (larger == NULL)
            free(octets);
        octets = larger;
    }
    if (ferror(file)) {
        free(octets);
        octets = NULL;
    }
    fclose(file);
    return octets;
}

static pc_client client_of(int connection)
{
    struct sockaddr_storage storage;
    struct sockaddr *address = (struct sockaddr *)&storage;
    socklen_t length = sizeof storage;
    if (getpeername(connection, address, &length) == 0)
        return pc_client_at(address);
    return (pc_client){.kind = PC_CLIENT_NONE}; /* a pipe */
}

/* The address between < and > in the argument of MAIL or RCPT, which is cut there; NULL if there is none. */
static char *path_in(char *argument)
{
    char *start = strchr(argument, '<');
    char *end = start == NULL ? NULL : strchr(start, '>');
    if (end == NULL)
        return NULL;
    *end = '\0';
    return start + 1;
}

static void refuse(const pc_decision *decision)
{
    char text[MOST_TEXT + 1];
    snprintf(text, sizeof text, "%s", decision->text);
    for (char *at = text; *at != '\0'; at++)
        if ((*at & 0x80) != 0)
            *at = '?';
    printf("%u %s %s\r\n", decision->code, decision->enhanced, text);
}

static void deliver(const pc_decision *decision)
{
    static const char *const levels[] = {"opportunistic", "encrypt", "verify", "name"};
    const char *first = decision->smart_host_count == 0           ? "mx"
                        : decision->smart_hosts[0].name != NULL ? decision->smart_hosts[0].name
                                                                : "an address";
    printf("250 2.1.5 ok, by %s with TLS level %s\r\n", first, levels[decision->tls.level]);
}

static void answer_recipient(pc_session *session, const pc_context *context)
{
    pc_decision decision;
    pc_error *error = pc_decide(session, context, &decision);
    if (error != NULL)
        complain("deferred", error);
    switch (decision.verdict) {
    case PC_ACCEPT:
        printf("250 2.1.5 ok\r\n");
        break;
    case PC_DELIVER:
        deliver(&decision);
        break;
    default:
        refuse(&decision);
    }
    pc_decision_free(&decision);
}

static void serve(pc_session *session, pc_direction direction)
{
    char line[LINE], helo[LINE] = "", sender[LINE] = "";
    bool has_sender = false;
    /* This host knows no TLS, and never sees a header. */
    pc_context context = {
        .direction = direction,
        .client = client_of(STDIN_FILENO),
        .security = PC_SECURITY_PLAINTEXT,
        .mail_from = sender,
        .header_kind = PC_HEADER_UNKNOWN,
    };
    printf("220 mail.contoso.com ESMTP\r\n");
    while (fflush(stdout) == 0 && fgets(line, sizeof line, stdin) != NULL) {
        size_t length = strlen(line);
        if (length == 0 || line[length - 1] != '\n') {
            printf("500 5.5.2 the line is too long, or has a zero\r\n");
            break;
        }
        line[strcspn(line, "\r\n")] = '\0';
        char *argument = line + strcspn(line, " :");
        if (*argument != '\0')
            *argument++ = '\0';
        if (strcasecmp(line, "HELO") == 0 || strcasecmp(line, "EHLO") == 0) {
            strcpy(helo, argument);
            context.helo = helo;
            has_sender = false;
            printf("250 mail.contoso.com\r\n");
        } else if (strcasecmp(line, "MAIL") == 0) {
            const char *path = path_in(argument);
            has_sender = path != NULL;
            if (has_sender)
                strcpy(sender, path);
            printf(has_sender ? "250 2.1.0 ok\r\n" : "501 5.5.4 MAIL FROM:<address>\r\n");
        } else if (strcasecmp(line, "RCPT") == 0) {
            context.rcpt_to = path_in(argument);
            if (!has_sender)
                printf("503 5.5.1 MAIL first\r\n");
            else if (context.rcpt_to == NULL)
                printf("501 5.5.4 RCPT TO:<address>\r\n");
            else
                answer_recipient(session, &context);
        } else if (strcasecmp(line, "RSET") == 0) {
            has_sender = false;
            printf("250 2.0.0 ok\r\n");
        } else if (strcasecmp(line, "QUIT") == 0) {
            break;
        } else {
            printf("502 5.5.1 not implemented\r\n");
        }
    }
    printf("221 2.0.0 bye\r\n");
    fflush(stdout);
}

/* Serves by the policy that is loaded. If there is none, every recipient is deferred. */
static int run(pc_engine *engine, const void *octets, size_t length, pc_direction direction)
{
    pc_policy *policy;
    pc_error *error = pc_policy_load(engine, octets, length, &policy);
    if (error != NULL) {
        complain("not loaded", error);
        serve(NULL, direction);
        return EXIT_FAILURE;
    }
    pc_session *session = pc_session_new(policy);
    serve(session, direction);
    pc_session_free(session);
    pc_policy_free(policy);
    return EXIT_SUCCESS;
}

int main(int count, char **arguments)
{
    bool is_inbound = count >= 3 && strcmp(arguments[2], "inbound") == 0;
    if (count < 3 || count > 4 || (!is_inbound && strcmp(arguments[2], "outbound") != 0)) {
        fprintf(stderr, "usage: smtp_rcpt policy.wasm inbound|outbound [MILLISECONDS]\n");
        return EXIT_FAILURE;
    }
    size_t length;
    void *octets = read_file(arguments[1], &length);
    if (octets == NULL) {
        perror(arguments[1]);
        return EXIT_FAILURE;
    }
    const pc_limits limits = {.timeout_ms = count == 4 ? (unsigned)atoi(arguments[3]) : 0};
    pc_engine *engine;
    pc_error *error = pc_engine_new(&limits, &engine);
    if (error != NULL) {
        complain("no engine", error);
        free(octets);
        return EXIT_FAILURE;
    }
    int status = run(engine, octets, length, is_inbound ? PC_INBOUND : PC_OUTBOUND);
    pc_engine_free(engine);
    free(octets);
    return status;
}
