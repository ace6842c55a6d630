/* Errors, and text of others made harmless. */

#include "internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

pc_error pc_no_memory = {PC_ERROR_SYSTEM, "there is no memory"};

/* Control characters, and those that turn the direction of writing, could make a line look like another one. Returns
 * how many octets such a character has, or 0 if it is another one. */
static size_t steering(const unsigned char *at, size_t left)
{
    if (at[0] < 0x20 || at[0] == 0x7F)
        return 1;
    if (left >= 2 && ((at[0] == 0xC2 && at[1] < 0xA0) || (at[0] == 0xD8 && at[1] == 0x9C)))
        return 2;
    if (left < 3 || at[0] != 0xE2)
        return 0;
    bool steers = at[1] == 0x80 ? at[2] == 0x8E || at[2] == 0x8F || (at[2] >= 0xA8 && at[2] <= 0xAE)
                                : at[1] == 0x81 && at[2] >= 0xA6 && at[2] <= 0xA9;
    return steers ? 3 : 0;
}

void pc_copy_harmless(char *to, const char *text, size_t length)
{
    const unsigned char *from = (const unsigned char *)text, *end = from + length;
    while (from < end) {
        size_t skipped = steering(from, (size_t)(end - from));
        *to++ = skipped > 0 ? ' ' : (char)*from;
        from += skipped > 0 ? skipped : 1;
    }
    *to = '\0';
}

pc_error *pc_fail(pc_error_kind kind, const char *format, ...)
{
    pc_error *error = malloc(sizeof *error);
    if (error == NULL)
        return &pc_no_memory;
    error->kind = kind;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
    return error;
}

/* The message of wasmtime's error has a line for each cause, the innermost last. Several have numbers. */
pc_error *pc_fail_because(pc_error_kind kind, const char *what, wasmtime_error_t *cause)
{
    wasm_name_t message;
    wasmtime_error_message(cause, &message);
    wasmtime_error_delete(cause);
    const char *end = message.data + message.size;
    while (end > message.data && end[-1] == '\n')
        end--;
    const char *start = end;
    while (start > message.data && start[-1] != '\n')
        start--;
    while (start < end && *start == ' ')
        start++;
    const char *after = start;
    while (after < end && *after >= '0' && *after <= '9')
        after++;
    if (after > start && end - after > 2 && after[0] == ':' && after[1] == ' ')
        start = after + 2;
    char reason[200];
    size_t length = (size_t)(end - start);
    pc_copy_harmless(reason, start, length < sizeof reason ? length : sizeof reason - 1);
    wasm_name_delete(&message);
    return pc_fail(kind, "%s: %s", what, reason);
}

pc_error_kind pc_error_get_kind(const pc_error *error)
{
    return error->kind;
}

const char *pc_error_message(const pc_error *error)
{
    return error->message;
}

void pc_error_free(pc_error *error)
{
    if (error != &pc_no_memory)
        free(error);
}
