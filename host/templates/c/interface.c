// What interface.h declares, and what the host calls.

#include "interface.h"

#define EXPORT(name) __attribute__((export_name(name)))
#define FUNCTION(name) EXPORT("portcullis:policy/evaluation@0.1.0#" name)
// Is called once the host has read a result.
#define AFTER(name) EXPORT("cabi_post_portcullis:policy/evaluation@0.1.0#" name)

// Where the linker has put nothing more.
extern char __heap_base;
// How much of the memory from there on is in use.
static size_t used;

static void *allocate_aligned(size_t alignment, size_t size) {
    enum { PAGE = 65536 };
    uint64_t base = (uintptr_t)&__heap_base;
    uint64_t start = (base + used + alignment - 1) / alignment * alignment;
    uint64_t end = start + size;
    size_t needed = (end + PAGE - 1) / PAGE;
    size_t present = __builtin_wasm_memory_size(0);
    if (needed > present && __builtin_wasm_memory_grow(0, needed - present) == SIZE_MAX)
        abort();
    used = end - base;
    return (void *)(uintptr_t)start;
}

void *allocate(size_t size) {
    return allocate_aligned(16, size);
}

// The host puts a context there.
EXPORT("cabi_realloc")
void *cabi_realloc(void *old, size_t old_size, size_t alignment, size_t size) {
    void *new = allocate_aligned(alignment, size);
    __builtin_memcpy(new, old, old_size < size ? old_size : size);
    return new;
}

FUNCTION("evaluate")
const struct verdict *exported_evaluate(const struct context *context) {
    static struct verdict verdict;
    verdict = evaluate(context);
    return &verdict;
}

AFTER("evaluate")
void after_evaluate(const struct verdict *verdict) {
    (void)verdict;
    used = 0;
}

FUNCTION("explain")
const struct explanation *exported_explain(const struct context *context) {
    static struct explanation explanation;
    explanation = (struct explanation){.verdict = evaluate(context)};
    return &explanation;
}

AFTER("explain")
void after_explain(const struct explanation *explanation) {
    (void)explanation;
    used = 0;
}

FUNCTION("describe")
const struct description *exported_describe(uint32_t first, uint32_t limit) {
    (void)first;
    (void)limit;
    static struct description description;
    description = (struct description){.reads = READS};
    return &description;
}

AFTER("describe")
void after_describe(const struct description *description) {
    (void)description;
    used = 0;
}

struct verdict accept(void) {
    return (struct verdict){.tag = VERDICT_ACCEPT};
}

struct verdict reject(struct string failed, struct string text) {
    struct refusal refusal = {.failed = failed, .code = 550, .enhanced = string("5.7.1"), .text = text};
    return (struct verdict){.tag = VERDICT_REJECT, .reject = refusal};
}

struct verdict defer(struct string failed) {
    struct string text = string("the policy has failed, try again later");
    struct refusal refusal = {.failed = failed, .code = 451, .enhanced = string("4.3.0"), .text = text};
    return (struct verdict){.tag = VERDICT_DEFER, .defer = refusal};
}

struct verdict deliver(struct tls_level level) {
    struct protection tls = {.level = level, .dane = DANE_OPPORTUNISTIC, .mta_sts = MTA_STS_OPPORTUNISTIC};
    struct delivery delivery = {.route.tag = ROUTE_MX, .tls = tls};
    return (struct verdict){.tag = VERDICT_DELIVER, .deliver = delivery};
}

struct string string(const char *text) {
    size_t length = 0;
    while (text[length])
        length++;
    return (struct string){text, length};
}

struct string joined(struct string first, struct string second) {
    size_t length = first.length + second.length;
    char *text = allocate(length);
    __builtin_memcpy(text, first.text, first.length);
    __builtin_memcpy(text + first.length, second.text, second.length);
    return (struct string){text, length};
}

struct string decimal(uint64_t number) {
    size_t length = 0;
    for (uint64_t rest = number; length == 0 || rest > 0; rest /= 10)
        length++;
    char *text = allocate(length);
    for (size_t i = length; i > 0; number /= 10)
        text[--i] = '0' + number % 10;
    return (struct string){text, length};
}

bool equals(struct string one, const char *text) {
    struct string other = string(text);
    if (one.length != other.length)
        return false;
    for (size_t i = 0; i < one.length; i++)
        if (one.text[i] != other.text[i])
            return false;
    return true;
}

struct string domain(struct string address) {
    size_t at = address.length;
    while (at > 0 && address.text[at - 1] != '@')
        at--;
    if (at == 0)
        return string("");
    size_t length = address.length - at;
    char *text = allocate(length);
    for (size_t i = 0; i < length; i++) {
        char it = address.text[at + i];
        text[i] = it >= 'A' && it <= 'Z' ? it - 'A' + 'a' : it;
    }
    return (struct string){text, length};
}

void abort(void) {
    __builtin_trap();
}
