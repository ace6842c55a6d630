/* What the files of the library share. Made for wasmtime 50. */
#ifndef PORTCULLIS_INTERNAL_H
#define PORTCULLIS_INTERNAL_H

#include <wasmtime.h>

#include "portcullis_policy.h"

#if WASMTIME_VERSION_MAJOR != 50 || !defined(WASMTIME_FEATURE_COMPONENT_MODEL) || !defined(WASMTIME_FEATURE_COMPILER)
#error "these are not the headers of wasmtime 50 with components and a compiler"
#endif

#define EVALUATION "portcullis:policy/evaluation@0.1.0"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

typedef wasmtime_component_val_t value;

#ifdef __GNUC__
#pragma GCC visibility push(hidden)
#endif

struct pc_error {
    pc_error_kind kind;
    char message[300];
};

extern pc_error pc_no_memory;

#ifdef __GNUC__
__attribute__((format(printf, 2, 3)))
#endif
pc_error *pc_fail(pc_error_kind kind, const char *format, ...);

/* An error that has a cause of wasmtime's, which this takes. */
pc_error *pc_fail_because(pc_error_kind kind, const char *what, wasmtime_error_t *cause);

/* Copies text of others as one printable line, with a zero: at most `length` + 1 octets. */
void pc_copy_harmless(char *to, const char *text, size_t length);

/* Whether a component is a policy: what it imports and exports, without running it. */
pc_error *pc_check_interface(const wasm_engine_t *engine, const wasmtime_component_t *component);

/* A context for a policy. If it is none, `wrong` is the field. The value is deleted in any case. */
value pc_context_value(const pc_context *context, const char **wrong);

/* The decision if there is no verdict. */
extern const pc_decision pc_unavailable;

/* Reads a policy's verdict. If it cannot be carried out, that is the error, and `decision` is left alone. */
pc_error *pc_read_verdict(const value *verdict, pc_direction asked, pc_decision *decision);

/* The facts that a policy's description says it reads, a bit each. */
uint32_t pc_read_facts(const value *description);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif

#endif
