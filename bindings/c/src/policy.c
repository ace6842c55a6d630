/* Engines, policies and sessions. */

#define _POSIX_C_SOURCE 200809L

#include "internal.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* A policy that is loaded has so many milliseconds at least: nobody would try again. */
#define LOADING_MS 1000

struct pc_engine {
    pc_limits limits;
    wasm_engine_t *wasmtime;
    wasmtime_component_linker_t *linker;
    pid_t process;
    pthread_t clock;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* Under the lock. */
    unsigned running;
    bool stopping;
};

struct pc_policy {
    pc_engine *engine;
    atomic_uint users;
    wasmtime_component_t *component;
    wasmtime_component_export_index_t *evaluate, *describe;
    uint32_t reads;
};

struct pc_session {
    pc_policy *policy;
    wasmtime_store_t *store; /* NULL: the next call makes it. */
    wasmtime_component_instance_t instance;
    unsigned timeout_ms;
    int64_t deadline; /* in milliseconds */
    bool is_late;
};

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

/* While something runs, each tick lets it look at the time. */
static void *tick(void *data)
{
    pc_engine *engine = data;
    unsigned quarter = engine->limits.timeout_ms / 4;
    long milliseconds = quarter < 1 ? 1 : quarter > 50 ? 50 : (long)quarter;
    const struct timespec period = {.tv_nsec = milliseconds * 1000000};
    pthread_mutex_lock(&engine->lock);
    while (!engine->stopping) {
        if (engine->running == 0) {
            pthread_cond_wait(&engine->changed, &engine->lock);
            continue;
        }
        pthread_mutex_unlock(&engine->lock);
        nanosleep(&period, NULL);
        wasmtime_engine_increment_epoch(engine->wasmtime);
        pthread_mutex_lock(&engine->lock);
    }
    pthread_mutex_unlock(&engine->lock);
    return NULL;
}

static bool start_clock(pc_engine *engine)
{
    pthread_mutex_init(&engine->lock, NULL);
    pthread_cond_init(&engine->changed, NULL);
    engine->running = 0;
    /* The program's signals are for its own threads. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool has_started = pthread_create(&engine->clock, NULL, tick, engine) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    engine->process = has_started ? getpid() : 0;
    return has_started;
}

static void set_running(pc_engine *engine, bool begins)
{
    pthread_mutex_lock(&engine->lock);
    if (begins && engine->running++ == 0)
        pthread_cond_signal(&engine->changed);
    else if (!begins)
        engine->running--;
    pthread_mutex_unlock(&engine->lock);
}

/* Zeros become the defaults. Returns whether an engine can have these limits. */
static bool complete(pc_limits *limits)
{
    if (limits->timeout_ms == 0)
        limits->timeout_ms = 50;
    if (limits->memory == 0)
        limits->memory = (size_t)64 << 20;
    if (limits->stack == 0)
        limits->stack = (size_t)512 << 10;
    return limits->timeout_ms <= 86400000 && limits->memory >= (size_t)20 << 16 &&
           limits->memory - 1 <= (size_t)UINT32_MAX && limits->stack >= (size_t)64 << 10 &&
           limits->stack <= (size_t)2 << 20;
}

pc_error *pc_engine_new(const pc_limits *limits, pc_engine **made)
{
    *made = NULL;
    pc_engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL)
        return &pc_no_memory;
    if (limits != NULL)
        engine->limits = *limits;
    if (!complete(&engine->limits)) {
        free(engine);
        return pc_fail(PC_ERROR_SYSTEM, "no engine can have these limits");
    }
    /* What is wrong with the settings would end the process. */
    wasm_config_t *config = wasm_config_new();
    wasmtime_config_epoch_interruption_set(config, true);
    wasmtime_config_max_wasm_stack_set(config, engine->limits.stack);
    wasmtime_config_concurrency_support_set(config, false);
    /* Garbage-collected memory and waiting are beyond the limits; values of asynchronous types would end the
     * process. */
    wasmtime_config_gc_support_set(config, false);
#ifdef WASMTIME_FEATURE_THREADS
    wasmtime_config_wasm_threads_set(config, false);
#endif
#ifdef WASMTIME_FEATURE_COMPONENT_MODEL_ASYNC
    wasmtime_config_wasm_component_model_async_set(config, false);
#endif
#ifdef WASMTIME_FEATURE_PARALLEL_COMPILATION
    /* A pool of threads would not survive a fork. */
    wasmtime_config_parallel_compilation_set(config, false);
#endif
    engine->wasmtime = wasm_engine_new_with_config(config);
    engine->linker = wasmtime_component_linker_new(engine->wasmtime);
    if (!start_clock(engine)) {
        pc_engine_free(engine);
        return pc_fail(PC_ERROR_SYSTEM, "the clock's thread cannot be started");
    }
    *made = engine;
    return NULL;
}

pc_error *pc_engine_after_fork(pc_engine *engine)
{
    return start_clock(engine) ? NULL : pc_fail(PC_ERROR_SYSTEM, "the clock's thread cannot be started");
}

void pc_engine_free(pc_engine *engine)
{
    if (engine == NULL)
        return;
    if (engine->process == getpid()) {
        pthread_mutex_lock(&engine->lock);
        engine->stopping = true;
        pthread_cond_signal(&engine->changed);
        pthread_mutex_unlock(&engine->lock);
        pthread_join(engine->clock, NULL);
    }
    wasmtime_component_linker_delete(engine->linker);
    wasm_engine_delete(engine->wasmtime);
    free(engine);
}

/* Calls */

static wasmtime_error_t *on_tick(const wasmtime_context_t *context, void *data, uint64_t *ticks,
                                 wasmtime_update_deadline_kind_t *kind)
{
    (void)context;
    pc_session *session = data;
    session->is_late = now() >= session->deadline;
    if (session->is_late)
        return wasmtime_error_new("out of time");
    *ticks = 1;
    *kind = WASMTIME_UPDATE_DEADLINE_CONTINUE;
    return NULL;
}

static void drop_instance(pc_session *session)
{
    if (session->store != NULL)
        wasmtime_store_delete(session->store);
    session->store = NULL;
}

/* A fresh instance, if there is none. */
static wasmtime_error_t *ready(pc_session *session)
{
    pc_engine *engine = session->policy->engine;
    if (session->store != NULL)
        return NULL;
    session->store = wasmtime_store_new(engine->wasmtime, NULL, NULL);
    wasmtime_store_epoch_deadline_callback(session->store, on_tick, session, NULL);
    /* Table elements, core instances, tables and memories: what components of other languages need. */
    wasmtime_store_limiter(session->store, (int64_t)engine->limits.memory, 100000, 64, 512, 6);
    wasmtime_context_t *context = wasmtime_store_context(session->store);
    wasmtime_context_set_epoch_deadline(context, 1);
    return wasmtime_component_linker_instantiate(engine->linker, context, session->policy->component,
                                                 &session->instance);
}

static wasmtime_error_t *answer(pc_session *session, const wasmtime_component_export_index_t *function,
                                const value *arguments, size_t count, value *result)
{
    wasmtime_error_t *error = ready(session);
    if (error != NULL)
        return error;
    wasmtime_context_t *context = wasmtime_store_context(session->store);
    wasmtime_context_set_epoch_deadline(context, 1);
    wasmtime_component_func_t found;
    if (!wasmtime_component_instance_get_func(&session->instance, context, function, &found))
        return wasmtime_error_new("the instance has no such function");
    return wasmtime_component_func_call(&found, context, arguments, count, result, 1);
}

/* Calls a function. An instance that has failed is in an unknown state, and is dropped. */
static pc_error *call(pc_session *session, const wasmtime_component_export_index_t *function, const value *arguments,
                      size_t count, value *result)
{
    pc_engine *engine = session->policy->engine;
    if (engine->process != getpid())
        return pc_fail(PC_ERROR_SYSTEM, "the process has forked, and pc_engine_after_fork has not been called");
    session->is_late = false;
    session->deadline = now() + session->timeout_ms;
    set_running(engine, true);
    wasmtime_error_t *error = answer(session, function, arguments, count, result);
    set_running(engine, false);
    if (error == NULL)
        return NULL;
    drop_instance(session);
    if (!session->is_late)
        return pc_fail_because(PC_ERROR_TRAP, "the policy gives no answer", error);
    wasmtime_error_delete(error);
    return pc_fail(PC_ERROR_TIMEOUT, "the policy has not answered within %u ms", session->timeout_ms);
}

/* Policies and sessions */

/* Tries a policy out, and asks it what it reads. */
static pc_error *describe(pc_policy *policy)
{
    unsigned timeout_ms = policy->engine->limits.timeout_ms;
    pc_session session = {.policy = policy, .timeout_ms = timeout_ms < LOADING_MS ? LOADING_MS : timeout_ms};
    /* The first connector, and how many. */
    const value arguments[] = {{.kind = WASMTIME_COMPONENT_U32}, {.kind = WASMTIME_COMPONENT_U32}};
    value described = {.kind = WASMTIME_COMPONENT_BOOL};
    pc_error *error = call(&session, policy->describe, arguments, COUNT(arguments), &described);
    if (error == NULL)
        policy->reads = pc_read_facts(&described);
    wasmtime_component_val_delete(&described);
    drop_instance(&session);
    return error;
}

static pc_error *compile(pc_policy *policy, const uint8_t *octets, size_t length)
{
    static const uint8_t component[] = {0, 'a', 's', 'm', 0x0D, 0, 1, 0};
    const wasm_engine_t *engine = policy->engine->wasmtime;
    /* wasmtime takes WebAssembly as text as well. */
    if (length < sizeof component || memcmp(octets, component, sizeof component) != 0)
        return pc_fail(PC_ERROR_COMPONENT, "this is not a WebAssembly component");
    wasmtime_error_t *cause = wasmtime_component_new(engine, octets, length, &policy->component);
    if (cause != NULL)
        return pc_fail_because(PC_ERROR_COMPONENT, "this is not a WebAssembly component", cause);
    pc_error *error = pc_check_interface(engine, policy->component);
    if (error != NULL)
        return error;
    wasmtime_component_export_index_t *evaluation =
        wasmtime_component_get_export_index(policy->component, NULL, EVALUATION, strlen(EVALUATION));
    policy->evaluate = wasmtime_component_get_export_index(policy->component, evaluation, "evaluate", 8);
    policy->describe = wasmtime_component_get_export_index(policy->component, evaluation, "describe", 8);
    wasmtime_component_export_index_delete(evaluation);
    return describe(policy);
}

pc_error *pc_policy_load(pc_engine *engine, const void *octets, size_t length, pc_policy **loaded)
{
    *loaded = NULL;
    pc_policy *policy = calloc(1, sizeof *policy);
    if (policy == NULL)
        return &pc_no_memory;
    policy->engine = engine;
    atomic_init(&policy->users, 1);
    pc_error *error = compile(policy, octets, length);
    if (error == NULL)
        *loaded = policy;
    else
        pc_policy_free(policy);
    return error;
}

void pc_policy_free(pc_policy *policy)
{
    if (policy == NULL || atomic_fetch_sub(&policy->users, 1) > 1)
        return;
    if (policy->evaluate != NULL)
        wasmtime_component_export_index_delete(policy->evaluate);
    if (policy->describe != NULL)
        wasmtime_component_export_index_delete(policy->describe);
    if (policy->component != NULL)
        wasmtime_component_delete(policy->component);
    free(policy);
}

bool pc_policy_reads(const pc_policy *policy, pc_fact fact)
{
    return policy->reads >> fact & 1;
}

pc_session *pc_session_new(pc_policy *policy)
{
    pc_session *session = calloc(1, sizeof *session);
    if (session == NULL)
        return NULL;
    atomic_fetch_add(&policy->users, 1);
    session->policy = policy;
    session->timeout_ms = policy->engine->limits.timeout_ms;
    return session;
}

void pc_session_free(pc_session *session)
{
    if (session == NULL)
        return;
    drop_instance(session);
    pc_policy_free(session->policy);
    free(session);
}

static pc_error *decide(pc_session *session, const value *context, pc_direction direction, pc_decision *decision)
{
    value verdict = {.kind = WASMTIME_COMPONENT_BOOL};
    pc_error *error = call(session, session->policy->evaluate, context, 1, &verdict);
    if (error == NULL)
        error = pc_read_verdict(&verdict, direction, decision);
    wasmtime_component_val_delete(&verdict);
    return error;
}

pc_error *pc_decide(pc_session *session, const pc_context *context, pc_decision *decision)
{
    *decision = pc_unavailable;
    if (session == NULL)
        return pc_fail(PC_ERROR_SYSTEM, "there is no session");
    const char *wrong = NULL;
    value made = pc_context_value(context, &wrong);
    pc_error *error = wrong == NULL ? decide(session, &made, context->direction, decision)
                                    : pc_fail(PC_ERROR_CONTEXT, "the context's %s is missing, or is not UTF-8", wrong);
    wasmtime_component_val_delete(&made);
    return error;
}
