/* Decisions, from the values of a policy. Their types have been checked when it was loaded, so fields and words are
 * looked for until they are found. */

#include "internal.h"

#include <stdlib.h>
#include <string.h>

/* The words of the interface, in the order of their numbers in C. */
static const char *const LEVELS[] = {"opportunistic", "encrypt", "verify", "name"};
static const char *const DANE[] = {"opportunistic", "mandatory", "none"};
static const char *const MTA_STS[] = {"opportunistic", "none"};
static const char *const VERDICTS[] = {"defer", "reject", "accept", "deliver"};
static const char *const FACTS[] = {
    "client-ip", "mail-from", "rcpt-to", "header-from", "tls", "tls-version", "certificate", "certificate-names",
    "certificate-sha256", "certificate-key", "certificate-trust", "certificate-anchors",
};

const pc_decision pc_unavailable = {
    .verdict = PC_DEFER,
    .code = 451,
    .enhanced = "4.3.0",
    .text = "the policy for this recipient is not available now, try again later",
    .failed = "policy-unavailable",
};

/* What a decision may have, in bytes. */
#define MOST_KEPT ((size_t)2 << 20)

/* What is read, and why it cannot be carried out. */
struct reading {
    struct block *memory;
    size_t kept;
    const char *wrong;
};

struct block {
    struct block *next;
    max_align_t octets[];
};

/* Memory of the decision's, or NULL. */
static void *keep(struct reading *reading, size_t count, size_t size)
{
    struct block *block = NULL;
    if (count > (MOST_KEPT - reading->kept) / size)
        reading->wrong = "it is too long";
    else if ((block = calloc(1, sizeof *block + count * size)) == NULL)
        reading->wrong = pc_no_memory.message;
    if (block == NULL)
        return NULL;
    reading->kept += count * size;
    block->next = reading->memory;
    reading->memory = block;
    return block->octets;
}

static bool is_word(const wasm_name_t *name, const char *word)
{
    return name->size == strlen(word) && memcmp(name->data, word, name->size) == 0;
}

static const value *field(const value *record, const char *name)
{
    const wasmtime_component_valrecord_entry_t *entry = record->of.record.data;
    while (!is_word(&entry->name, name))
        entry++;
    return &entry->val;
}

static unsigned number_of(const wasm_name_t *name, const char *const *words)
{
    unsigned number = 0;
    while (!is_word(name, words[number]))
        number++;
    return number;
}

static const char *read_text(struct reading *reading, const value *text)
{
    const wasm_name_t *string = &text->of.string;
    char *copy = keep(reading, string->size + 1, 1);
    if (copy != NULL)
        pc_copy_harmless(copy, string->data, string->size);
    return copy;
}

static const char *read_optional_text(struct reading *reading, const value *text)
{
    return text->of.option == NULL ? NULL : read_text(reading, text->of.option);
}

static pc_strings read_texts(struct reading *reading, const value *list)
{
    pc_strings texts = {NULL, list->of.list.size};
    const char **at = keep(reading, texts.count, sizeof *at);
    for (size_t i = 0; at != NULL && i < texts.count; i++)
        at[i] = read_text(reading, &list->of.list.data[i]);
    texts.at = at;
    return texts;
}

static void put_octets(uint8_t *to, const value *words, size_t count)
{
    for (size_t i = 0; i < 8 * count; i++)
        to[i] = (uint8_t)(words->of.tuple.data[i / 8].of.u64 >> (56 - 8 * (i % 8)));
}

static const pc_sha256 *read_digests(struct reading *reading, const value *list, size_t *count)
{
    *count = list->of.list.size;
    pc_sha256 *digests = keep(reading, *count, sizeof *digests);
    for (size_t i = 0; digests != NULL && i < *count; i++)
        put_octets(digests[i].octets, &list->of.list.data[i], 4);
    return digests;
}

static void read_audit(struct reading *reading, const value *record, pc_decision *decision)
{
    const wasmtime_component_vallist_t *list = &field(record, "audit")->of.list;
    pc_finding *findings = keep(reading, list->size, sizeof *findings);
    for (size_t i = 0; findings != NULL && i < list->size; i++) {
        findings[i].connector = read_text(reading, field(&list->data[i], "connector"));
        findings[i].failed = read_text(reading, field(&list->data[i], "failed"));
    }
    decision->audit = findings;
    decision->audit_count = list->size;
}

/* Whether a text is a host's name of A-labels without a final dot. */
static bool is_host_name(const char *name)
{
    size_t label = 0;
    const char *at = name;
    for (; *at != '\0' && label < 64; at++) {
        bool is_hyphen = *at == '-';
        bool is_part = (*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z') || (*at >= '0' && *at <= '9') ||
                       *at == '_' || (is_hyphen && label > 0 && at[1] != '.' && at[1] != '\0');
        if (!is_part && (*at != '.' || label == 0))
            return false;
        label = is_part ? label + 1 : 0;
    }
    return label > 0 && label < 64 && at - name <= 253;
}

static pc_protection read_protection(struct reading *reading, const value *record)
{
    const wasmtime_component_valvariant_t *level = &field(record, "level")->of.variant;
    const value *min_version = field(record, "min-version")->of.option;
    pc_protection it = {
        .level = (pc_level)number_of(&level->discriminant, LEVELS),
        .min_version = min_version == NULL ? 0 : min_version->of.u16,
        .authorities = read_texts(reading, field(record, "authorities")),
        .dane = (pc_dane)number_of(&field(record, "dane")->of.enumeration, DANE),
        .mta_sts = (pc_mta_sts)number_of(&field(record, "mta-sts")->of.enumeration, MTA_STS),
    };
    it.fingerprints = read_digests(reading, field(record, "fingerprints"), &it.fingerprint_count);
    it.keys = read_digests(reading, field(record, "keys"), &it.key_count);
    if (it.level != PC_LEVEL_NAME)
        return it;
    it.names = read_texts(reading, level->val);
    bool can_be = it.names.count > 0;
    for (size_t i = 0; can_be && reading->wrong == NULL && i < it.names.count; i++) {
        const char *name = it.names.at[i];
        can_be = is_host_name(strncmp(name, "*.", 2) == 0 ? name + 2 : name);
    }
    if (!can_be)
        reading->wrong = "it asks for a certificate name that no certificate can have";
    return it;
}

static pc_smart_host read_smart_host(struct reading *reading, const value *record)
{
    const wasmtime_component_valvariant_t *host = &field(record, "host")->of.variant;
    const value *port = field(record, "port")->of.option;
    pc_smart_host it = {.port = port == NULL ? 25 : port->of.u16};
    if (is_word(&host->discriminant, "name")) {
        it.name = read_text(reading, host->val);
    } else {
        const wasmtime_component_valvariant_t *address = &host->val->of.variant;
        it.address.is_ipv6 = is_word(&address->discriminant, "ipv6");
        if (it.address.is_ipv6)
            put_octets(it.address.octets, address->val, 2);
        for (size_t i = 0; !it.address.is_ipv6 && i < 4; i++)
            it.address.octets[i] = (uint8_t)(address->val->of.u32 >> (24 - 8 * i));
    }
    if (reading->wrong == NULL && (it.port == 0 || (it.name != NULL && !is_host_name(it.name))))
        reading->wrong = "it names a smart host that cannot be";
    return it;
}

static void read_route(struct reading *reading, const value *route, pc_decision *decision)
{
    if (is_word(&route->of.variant.discriminant, "mx"))
        return;
    const wasmtime_component_vallist_t *list = &route->of.variant.val->of.list;
    pc_smart_host *hosts = keep(reading, list->size, sizeof *hosts);
    bool has_name = false;
    for (size_t i = 0; hosts != NULL && i < list->size; i++) {
        hosts[i] = read_smart_host(reading, &list->data[i]);
        has_name = has_name || hosts[i].name != NULL;
    }
    decision->smart_hosts = hosts;
    decision->smart_host_count = list->size;
    if (list->size == 0)
        reading->wrong = "it names no smart host";
    else if (decision->tls.dane == PC_DANE_MANDATORY && !has_name)
        reading->wrong = "it makes DANE mandatory, and its smart hosts have no names that TLSA records could be at";
}

static void read_delivery(struct reading *reading, const value *record, pc_decision *decision)
{
    const value *audit_tls = field(record, "audit-tls")->of.option;
    decision->connector = read_optional_text(reading, field(record, "connector"));
    decision->tls = read_protection(reading, field(record, "tls"));
    if (audit_tls != NULL) {
        pc_protection *protection = keep(reading, 1, sizeof *protection);
        if (protection != NULL)
            *protection = read_protection(reading, audit_tls);
        decision->audit_tls = protection;
    }
    decision->audit_connector = read_optional_text(reading, field(record, "audit-connector"));
    read_route(reading, field(record, "route"), decision);
}

/* A part of an enhanced status code (RFC 3463): one to three digits without leading zeros. */
static bool skip_digits(const char **rest)
{
    size_t length = strspn(*rest, "0123456789");
    bool is = length >= 1 && length <= 3 && (length == 1 || **rest != '0');
    *rest += length;
    return is;
}

static bool is_enhanced_code(const char *text, char class)
{
    return *text++ == class && *text++ == '.' && skip_digits(&text) && *text++ == '.' && skip_digits(&text) &&
           *text == '\0';
}

/* Codes of another class are replaced. The second digit is at most 5 (RFC 5321 section 4.2.1). */
static void read_refusal(struct reading *reading, const value *record, pc_decision *decision)
{
    bool is_permanent = decision->verdict == PC_REJECT;
    unsigned class = is_permanent ? 500 : 400;
    decision->connector = read_optional_text(reading, field(record, "connector"));
    decision->failed = read_text(reading, field(record, "failed"));
    decision->text = read_text(reading, field(record, "text"));
    decision->code = field(record, "code")->of.u16;
    if (decision->code < class || decision->code >= class + 60)
        decision->code = is_permanent ? 550 : 451;
    decision->enhanced = read_text(reading, field(record, "enhanced"));
    if (decision->enhanced != NULL && !is_enhanced_code(decision->enhanced, is_permanent ? '5' : '4'))
        decision->enhanced = is_permanent ? "5.7.1" : "4.7.1";
}

static void read_verdict(struct reading *reading, const value *verdict, pc_direction asked, pc_decision *decision)
{
    const value *record = verdict->of.variant.val;
    decision->verdict = (pc_verdict)number_of(&verdict->of.variant.discriminant, VERDICTS);
    read_audit(reading, record, decision);
    switch (decision->verdict) {
    case PC_ACCEPT:
        decision->connectors = read_texts(reading, field(record, "connectors"));
        if (asked == PC_OUTBOUND)
            reading->wrong = "it answers outbound mail with an inbound verdict";
        break;
    case PC_DELIVER:
        read_delivery(reading, record, decision);
        if (asked == PC_INBOUND)
            reading->wrong = "it answers inbound mail with an outbound verdict";
        break;
    default:
        read_refusal(reading, record, decision);
    }
}

pc_error *pc_read_verdict(const value *verdict, pc_direction asked, pc_decision *decision)
{
    struct reading reading = {NULL, 0, NULL};
    pc_decision read = {.verdict = PC_DEFER};
    read_verdict(&reading, verdict, asked, &read);
    read.memory = reading.memory;
    if (reading.wrong != NULL) {
        pc_decision_free(&read);
        return pc_fail(PC_ERROR_VERDICT, "the policy's verdict cannot be carried out: %s", reading.wrong);
    }
    *decision = read;
    return NULL;
}

void pc_decision_free(pc_decision *decision)
{
    struct block *block = decision->memory;
    while (block != NULL) {
        struct block *next = block->next;
        free(block);
        block = next;
    }
    *decision = pc_unavailable;
}

uint32_t pc_read_facts(const value *description)
{
    const wasmtime_component_vallist_t *reads = &field(description, "reads")->of.list;
    uint32_t facts = 0;
    for (size_t i = 0; i < reads->size; i++)
        facts |= UINT32_C(1) << number_of(&reads->data[i].of.enumeration, FACTS);
    return facts;
}
