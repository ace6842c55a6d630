/* Contexts, as values for a policy. A value owns what it is made of, and belongs to the one that it becomes a part
 * of. */

#include "internal.h"

#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

/* The words of the interface, in the order of their numbers in C. A number that has no word here stands for a fact that
 * is not known. */
static const char *const DIRECTIONS[] = {NULL, "inbound", "outbound"};
static const char *const TRUST[] = {
    NULL, "trusted", "expired", "unknown-issuer", "not-yet-valid", "revoked", "invalid",
};

/* A number of an enumeration of C as a word: NULL if it has none. */
static const char *word(const char *const *words, size_t count, unsigned at)
{
    return at < count ? words[at] : NULL;
}

static wasm_name_t name_of(const char *text)
{
    wasm_name_t name;
    wasm_name_new(&name, strlen(text), text);
    return name;
}

/* wasmtime ends the process on text that is not UTF-8. */
static bool is_utf8(const char *text)
{
    const unsigned char *at = (const unsigned char *)text;
    while (*at != 0) {
        unsigned first = *at++;
        if (first < 0x80)
            continue;
        unsigned more = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : 1;
        /* Overlong forms, surrogates, and what is beyond Unicode. */
        unsigned least = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
        unsigned most = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
        if (first < 0xC2 || first > 0xF4 || *at < least || *at > most)
            return false;
        for (at++; --more > 0; at++)
            if ((*at & 0xC0) != 0x80)
                return false;
    }
    return true;
}

/* A text. What is none is told of by the name of its field. */
static value text_of(const char *text, const char *field, const char **wrong)
{
    if (text == NULL || !is_utf8(text)) {
        *wrong = field;
        text = "";
    }
    return (value){.kind = WASMTIME_COMPONENT_STRING, .of.string = name_of(text)};
}

static value enum_of(const char *word)
{
    return (value){.kind = WASMTIME_COMPONENT_ENUM, .of.enumeration = name_of(word)};
}

static value no_value(void)
{
    return (value){.kind = WASMTIME_COMPONENT_OPTION};
}

static value some(value it)
{
    return (value){.kind = WASMTIME_COMPONENT_OPTION, .of.option = wasmtime_component_val_new(&it)};
}

static value empty_case(const char *name)
{
    return (value){.kind = WASMTIME_COMPONENT_VARIANT, .of.variant.discriminant = name_of(name)};
}

static value case_of(const char *name, value it)
{
    value made = empty_case(name);
    made.of.variant.val = wasmtime_component_val_new(&it);
    return made;
}

static value u16_of(uint16_t number)
{
    return (value){.kind = WASMTIME_COMPONENT_U16, .of.u16 = number};
}

static value u32_of(uint32_t number)
{
    return (value){.kind = WASMTIME_COMPONENT_U32, .of.u32 = number};
}

/* Numbers of 64 bits, from octets in network order. */
static value words_of(const uint8_t *octets, size_t count)
{
    value made = {.kind = WASMTIME_COMPONENT_TUPLE};
    wasmtime_component_valtuple_new_uninit(&made.of.tuple, count);
    for (size_t i = 0; i < count; i++) {
        uint64_t number = 0;
        for (size_t octet = 0; octet < 8; octet++)
            number = number << 8 | octets[8 * i + octet];
        made.of.tuple.data[i] = (value){.kind = WASMTIME_COMPONENT_U64, .of.u64 = number};
    }
    return made;
}

static value list_of(size_t count)
{
    value made = {.kind = WASMTIME_COMPONENT_LIST};
    wasmtime_component_vallist_new_uninit(&made.of.list, count);
    return made;
}

static value texts_of(pc_strings texts, const char *field, const char **wrong)
{
    value made = list_of(texts.count);
    for (size_t i = 0; i < texts.count; i++)
        made.of.list.data[i] = text_of(texts.at[i], field, wrong);
    return made;
}

/* A record of so many fields, which are set in the order of the interface: no other order is taken. */
static value record_of(size_t count)
{
    value made = {.kind = WASMTIME_COMPONENT_RECORD};
    wasmtime_component_valrecord_new_uninit(&made.of.record, count);
    return made;
}

static void set(value *record, size_t at, const char *name, value it)
{
    record->of.record.data[at] = (wasmtime_component_valrecord_entry_t){name_of(name), it};
}

static value address_of(const pc_address *address)
{
    static const uint8_t mapped[12] = {[10] = 0xFF, [11] = 0xFF};
    const uint8_t *ipv4 = address->octets;
    if (address->is_ipv6) {
        if (memcmp(ipv4, mapped, sizeof mapped) != 0)
            return case_of("ipv6", words_of(address->octets, 2));
        ipv4 += sizeof mapped;
    }
    uint32_t number = 0;
    for (size_t octet = 0; octet < 4; octet++)
        number = number << 8 | ipv4[octet];
    return case_of("ipv4", u32_of(number));
}

static value client_of(const pc_client *client)
{
    switch (client->kind) {
    case PC_CLIENT_NONE:
        return empty_case("none");
    case PC_CLIENT_KNOWN:
        return case_of("known", address_of(&client->address));
    default:
        return empty_case("unknown");
    }
}

static value certificate_of(const pc_certificate *certificate, const char **wrong)
{
    const pc_certificate *it = certificate;
    const char *trust = word(TRUST, COUNT(TRUST), it->trust);
    value made = record_of(8);
    set(&made, 0, "dns-names", it->dns_names ? some(texts_of(*it->dns_names, "dns_names", wrong)) : no_value());
    set(&made, 1, "subject", text_of(it->subject ? it->subject : "", "subject", wrong));
    set(&made, 2, "issuer", text_of(it->issuer ? it->issuer : "", "issuer", wrong));
    set(&made, 3, "sha256", it->sha256 ? some(words_of(it->sha256->octets, 4)) : no_value());
    set(&made, 4, "key-sha256", it->key_sha256 ? some(words_of(it->key_sha256->octets, 4)) : no_value());
    value end = {.kind = WASMTIME_COMPONENT_S64, .of.s64 = it->not_after ? *it->not_after : 0};
    set(&made, 5, "not-after", it->not_after ? some(end) : no_value());
    set(&made, 6, "trust", trust ? some(enum_of(trust)) : no_value());
    set(&made, 7, "anchors", it->anchors ? some(texts_of(*it->anchors, "anchors", wrong)) : no_value());
    return made;
}

static value peer_certificate_of(const pc_tls *tls, const char **wrong)
{
    switch (tls->certificate_kind) {
    case PC_CERTIFICATE_NONE:
        return empty_case("none");
    case PC_CERTIFICATE_PRESENTED:
        return case_of("presented", certificate_of(&tls->certificate, wrong));
    default:
        return empty_case("unknown");
    }
}

static value security_of(const pc_context *context, const char **wrong)
{
    const pc_tls *tls = &context->tls;
    value made;
    switch (context->security) {
    case PC_SECURITY_PLAINTEXT:
        return empty_case("plaintext");
    case PC_SECURITY_ENCRYPTED:
        made = record_of(3);
        set(&made, 0, "version", tls->version ? some(u16_of(tls->version)) : no_value());
        set(&made, 1, "cipher", text_of(tls->cipher ? tls->cipher : "", "cipher", wrong));
        set(&made, 2, "certificate", peer_certificate_of(tls, wrong));
        return case_of("encrypted", made);
    default:
        return empty_case("unknown");
    }
}

static value header_of(const pc_context *context, const char **wrong)
{
    switch (context->header_kind) {
    case PC_HEADER_PENDING:
        return empty_case("pending");
    case PC_HEADER_ADDRESSES:
        return case_of("addresses", texts_of(context->header_from, "header_from", wrong));
    default:
        return empty_case("unknown");
    }
}

static value attributes_of(const pc_context *context, const char **wrong)
{
    value made = list_of(context->attribute_count);
    for (size_t i = 0; i < context->attribute_count; i++) {
        value attribute = record_of(2);
        set(&attribute, 0, "name", text_of(context->attributes[i].name, "attributes", wrong));
        set(&attribute, 1, "value", text_of(context->attributes[i].value, "attributes", wrong));
        made.of.list.data[i] = attribute;
    }
    return made;
}

value pc_context_value(const pc_context *context, const char **wrong)
{
    const char *direction = word(DIRECTIONS, COUNT(DIRECTIONS), context->direction);
    if (direction == NULL)
        *wrong = "direction";
    value made = record_of(8);
    set(&made, 0, "direction", enum_of(direction ? direction : ""));
    set(&made, 1, "client-ip", client_of(&context->client));
    set(&made, 2, "helo", context->helo ? some(text_of(context->helo, "helo", wrong)) : no_value());
    set(&made, 3, "security", security_of(context, wrong));
    set(&made, 4, "mail-from", text_of(context->mail_from, "mail_from", wrong));
    set(&made, 5, "rcpt-to", text_of(context->rcpt_to, "rcpt_to", wrong));
    set(&made, 6, "header-from", header_of(context, wrong));
    set(&made, 7, "attributes", attributes_of(context, wrong));
    return made;
}

pc_client pc_client_at(const struct sockaddr *address)
{
    pc_client client = {.kind = PC_CLIENT_KNOWN};
    switch (address->sa_family) {
    case AF_INET:
        memcpy(client.address.octets, &((const struct sockaddr_in *)(const void *)address)->sin_addr, 4);
        break;
    case AF_INET6:
        client.address.is_ipv6 = true;
        memcpy(client.address.octets, &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr, 16);
        break;
    default:
        client.kind = address->sa_family == AF_UNIX ? PC_CLIENT_NONE : PC_CLIENT_UNKNOWN;
    }
    return client;
}
