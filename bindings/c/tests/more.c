/* What needs a program of its own: threads, forks, contexts that are none, limits that cannot be, and speed.
 *
 *     more POLICY LOOPING_POLICY */

#define _POSIX_C_SOURCE 200809L

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "portcullis_policy.h"

static unsigned char octets[2][1 << 20];
static size_t lengths[2];

static const pc_context CONTEXT = {
    .direction = PC_INBOUND,
    .client = {PC_CLIENT_KNOWN, {false, {203, 0, 113, 7}}},
    .security = PC_SECURITY_PLAINTEXT,
    .helo = "mail.contosobank.com",
    .mail_from = "alice@contosobank.com",
    .rcpt_to = "bob@contoso.com",
    .header_kind = PC_HEADER_PENDING,
};

static double seconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static long kilobytes(void)
{
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (fscanf(file, "%*d %ld", &pages) != 1)
        abort();
    fclose(file);
    return pages * 4;
}

static pc_engine *engine_with(unsigned timeout_ms)
{
    pc_engine *engine;
    const pc_limits limits = {.timeout_ms = timeout_ms};
    pc_error *error = pc_engine_new(&limits, &engine);
    assert(error == NULL);
    return engine;
}

static pc_policy *load(pc_engine *engine, int which)
{
    pc_policy *policy;
    pc_error *error = pc_policy_load(engine, octets[which], lengths[which], &policy);
    if (error != NULL)
        printf("%s\n", pc_error_message(error));
    assert(error == NULL);
    return policy;
}

/* The kind of the error, 0 if there is none. What is deferred is deferred in one way. */
static int ask(pc_session *session, const pc_context *context, pc_verdict expected)
{
    pc_decision decision;
    pc_error *error = pc_decide(session, context, &decision);
    int kind = error == NULL ? 0 : (int)pc_error_get_kind(error);
    assert(decision.verdict == (kind != 0 ? PC_DEFER : expected));
    if (kind != 0) {
        assert(decision.code == 451 && strcmp(decision.enhanced, "4.3.0") == 0);
        assert(strcmp(decision.failed, "policy-unavailable") == 0 && decision.memory == NULL);
    }
    pc_error_free(error);
    pc_decision_free(&decision);
    assert(decision.verdict == PC_DEFER);
    return kind;
}

static void *ask_often(void *data)
{
    pc_session *session = data;
    for (int time = 0; time < 2000; time++)
        assert(ask(session, &CONTEXT, PC_REJECT) == 0);
    pc_session_free(session);
    return NULL;
}

static void *ask_looping(void *data)
{
    pc_session *session = data;
    for (int time = 0; time < 3; time++)
        assert(ask(session, &CONTEXT, PC_REJECT) == PC_ERROR_TIMEOUT);
    pc_session_free(session);
    return NULL;
}

static void threads(void)
{
    pc_engine *engine = engine_with(200);
    pc_policy *policy = load(engine, 0), *looping = load(engine, 1);
    pthread_t all[5];
    for (int i = 0; i < 5; i++)
        pthread_create(&all[i], NULL, i == 0 ? ask_looping : ask_often, pc_session_new(i == 0 ? looping : policy));
    pc_policy_free(policy); /* may come before the sessions end */
    pc_policy_free(NULL);
    for (int i = 0; i < 5; i++)
        pthread_join(all[i], NULL);
    pc_policy_free(looping);
    pc_engine_free(engine);
}

static void forks(void)
{
    pc_engine *engine = engine_with(100);
    pc_policy *policy = load(engine, 0), *looping = load(engine, 1);
    pc_session *session = pc_session_new(policy);
    assert(ask(session, &CONTEXT, PC_REJECT) == 0);
    pid_t child = fork();
    if (child == 0) {
        pc_session *loops = pc_session_new(looping);
        if (ask(session, &CONTEXT, PC_REJECT) != PC_ERROR_SYSTEM || ask(loops, &CONTEXT, PC_REJECT) != PC_ERROR_SYSTEM)
            _exit(1);
        pc_error *error = pc_engine_after_fork(engine);
        if (error != NULL || ask(session, &CONTEXT, PC_REJECT) != 0 ||
            ask(loops, &CONTEXT, PC_REJECT) != PC_ERROR_TIMEOUT)
            _exit(2);
        pc_policy *again = load(engine, 0);
        pc_policy_free(again);
        pc_session_free(loops);
        pc_session_free(session);
        pc_policy_free(policy);
        pc_policy_free(looping);
        pc_engine_free(engine);
        _exit(7);
    }
    int status;
    waitpid(child, &status, 0);
    assert(WIFEXITED(status) && WEXITSTATUS(status) == 7);
    assert(ask(session, &CONTEXT, PC_REJECT) == 0);
    pc_session_free(session);
    pc_policy_free(policy);
    pc_policy_free(looping);
    pc_engine_free(engine);
}

static void contexts(void)
{
    static const char *const bad[] = {
        "\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF",
        "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "a\xC3", "a\xE2\x82", "a\xF0\x9F\x98", "\xC3(", NULL,
    };
    static const char *const good[] = {"", "a@b", "\xC3\xA9@x", "\xE2\x82\xAC", "\xEE\x80\x80", "\xF0\x9F\x98\x80",
                                       "\xF4\x8F\xBF\xBF", "\xED\x9F\xBF"};
    pc_engine *engine = engine_with(5000);
    pc_policy *policy = load(engine, 0);
    pc_session *session = pc_session_new(policy);
    assert(pc_policy_reads(policy, PC_FACT_MAIL_FROM) && !pc_policy_reads(policy, PC_FACT_CERTIFICATE_KEY));
    pc_context context = CONTEXT;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        context.mail_from = bad[i];
        assert(ask(session, &context, PC_ACCEPT) == PC_ERROR_CONTEXT);
    }
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        context.mail_from = good[i];
        assert(ask(session, &context, PC_ACCEPT) == 0);
    }
    context.helo = "\xFF";
    assert(ask(session, &context, PC_ACCEPT) == PC_ERROR_CONTEXT);
    context = (pc_context){.mail_from = "", .rcpt_to = "b@contoso.com"};
    assert(ask(session, &context, PC_ACCEPT) == PC_ERROR_CONTEXT); /* no direction */
    context.direction = PC_INBOUND;
    assert(ask(session, &context, PC_ACCEPT) == 0);
    context.mail_from = "alice@contosobank.com";
    assert(ask(session, &context, PC_DEFER) == 0); /* whether there is TLS is unknown */
    assert(ask(NULL, &context, PC_ACCEPT) == PC_ERROR_SYSTEM);
    pc_session_free(session);
    pc_policy_free(policy);
    pc_engine_free(engine);
}

static void limits(void)
{
    const pc_limits bad[] = {{86400001, 0, 0}, {0, 1000, 0}, {0, 0, 1000}, {0, 0, 3 << 20}, {0, (size_t)5 << 30, 0}};
    const pc_limits good[] = {{86400000, 0, 0}, {1, (size_t)4 << 30, 2 << 20}, {0, 20 << 16, 64 << 10}};
    pc_engine *engine;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        pc_error *error = pc_engine_new(&bad[i], &engine);
        assert(error != NULL && pc_error_get_kind(error) == PC_ERROR_SYSTEM && engine == NULL);
        pc_error_free(error);
    }
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        pc_error *error = pc_engine_new(&good[i], &engine);
        assert(error == NULL);
        pc_engine_free(engine);
    }
}

static void speed(int times)
{
    pc_engine *engine = engine_with(0);
    double before = seconds();
    pc_policy *policy = load(engine, 0);
    printf("load: %.0f ms\n", (seconds() - before) * 1e3);
    pc_session *session = pc_session_new(policy);
    for (int round = 0; round < 3; round++) {
        before = seconds();
        for (int time = 0; time < times; time++)
            assert(ask(session, &CONTEXT, PC_REJECT) == 0);
        printf("decide: %.1f us, %ld KB\n", (seconds() - before) / times * 1e6, kilobytes());
    }
    before = seconds();
    for (int time = 0; time < times / 10; time++) {
        pc_session *fresh = pc_session_new(policy);
        assert(ask(fresh, &CONTEXT, PC_REJECT) == 0);
        pc_session_free(fresh);
    }
    printf("session with one decision: %.1f us\n", (seconds() - before) / (times / 10) * 1e6);
    struct rusage first, last;
    getrusage(RUSAGE_SELF, &first);
    sleep(2);
    getrusage(RUSAGE_SELF, &last);
    printf("switches in 2 idle seconds: %ld\n", last.ru_nvcsw - first.ru_nvcsw);
    pc_session_free(session);
    pc_policy_free(policy);
    pc_engine_free(engine);
}

int main(int count, char **arguments)
{
    assert(count >= 3);
    for (int i = 0; i < 2; i++) {
        FILE *file = fopen(arguments[i + 1], "rb");
        lengths[i] = fread(octets[i], 1, sizeof octets[i], file);
        fclose(file);
    }
    limits();
    contexts();
    threads();
    forks();
    if (count > 3)
        speed(atoi(arguments[3]));
    printf("ok\n");
    return 0;
}
