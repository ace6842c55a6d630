// The interface (wit/policy.wit documents each item), and what of it a policy need not write itself.
//
// The types are laid out as the component model lays them out in memory: the host reads and writes them as they are.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

_Static_assert(sizeof(void *) == 4, "the layout is that of wasm32");

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define LIST(name, type) struct name { const type *items; size_t count; }
#define OPTIONAL(name, type) struct name { bool present; type value; }

// UTF-8. It does not end with a zero byte, and may have one in it, as a name in a certificate may.
struct string { const char *text; size_t length; };

LIST(strings, struct string);
OPTIONAL(optional_string, struct string);
OPTIONAL(optional_strings, struct strings);
OPTIONAL(optional_u16, uint16_t);
OPTIONAL(optional_s64, int64_t);

enum direction : uint8_t { DIRECTION_INBOUND, DIRECTION_OUTBOUND };

struct ip_address {
    enum : uint8_t { IP_ADDRESS_IPV4, IP_ADDRESS_IPV6 } tag;
    union {
        uint32_t ipv4;
        uint64_t ipv6[2];
    };
};

struct client_address {
    enum : uint8_t { CLIENT_ADDRESS_NONE, CLIENT_ADDRESS_KNOWN, CLIENT_ADDRESS_UNKNOWN } tag;
    struct ip_address known;
};

struct sha256 { uint64_t words[4]; };

LIST(sha256s, struct sha256);
OPTIONAL(optional_sha256, struct sha256);

enum trust : uint8_t {
    TRUST_TRUSTED, TRUST_EXPIRED, TRUST_UNKNOWN_ISSUER, TRUST_NOT_YET_VALID, TRUST_REVOKED, TRUST_INVALID,
};

OPTIONAL(optional_trust, enum trust);

struct certificate {
    struct optional_strings dns_names;
    struct string subject;
    struct string issuer;
    struct optional_sha256 sha256;
    struct optional_sha256 key_sha256;
    struct optional_s64 not_after;
    struct optional_trust trust;
    struct optional_strings anchors;
};

struct peer_certificate {
    enum : uint8_t { PEER_CERTIFICATE_NONE, PEER_CERTIFICATE_PRESENTED, PEER_CERTIFICATE_UNKNOWN } tag;
    struct certificate presented;
};

struct tls {
    struct optional_u16 version;
    struct string cipher;
    struct peer_certificate certificate;
};

struct session_security {
    enum : uint8_t { SESSION_SECURITY_PLAINTEXT, SESSION_SECURITY_ENCRYPTED, SESSION_SECURITY_UNKNOWN } tag;
    struct tls encrypted;
};

struct header_from {
    enum : uint8_t { HEADER_FROM_PENDING, HEADER_FROM_ADDRESSES, HEADER_FROM_UNKNOWN } tag;
    struct strings addresses;
};

struct attribute { struct string name, value; };

LIST(attributes, struct attribute);

struct context {
    enum direction direction;
    struct client_address client_ip;
    struct optional_string helo;
    struct session_security security;
    struct string mail_from;
    struct string rcpt_to;
    struct header_from header_from;
    struct attributes attributes;
};

enum fact : uint8_t {
    FACT_CLIENT_IP, FACT_MAIL_FROM, FACT_RCPT_TO, FACT_HEADER_FROM, FACT_TLS, FACT_TLS_VERSION, FACT_CERTIFICATE,
    FACT_CERTIFICATE_NAMES, FACT_CERTIFICATE_SHA256, FACT_CERTIFICATE_KEY, FACT_CERTIFICATE_TRUST,
    FACT_CERTIFICATE_ANCHORS,
};

LIST(facts, enum fact);

struct finding { struct string connector, failed; };

LIST(findings, struct finding);

struct acceptance {
    struct strings connectors;
    struct findings audit;
};

struct refusal {
    struct optional_string connector;
    struct string failed;
    uint16_t code;
    struct string enhanced;
    struct string text;
    struct findings audit;
};

struct host {
    enum : uint8_t { HOST_NAME, HOST_ADDRESS } tag;
    union {
        struct string name;
        struct ip_address address;
    };
};

struct smart_host {
    struct host host;
    struct optional_u16 port;
};

LIST(smart_hosts, struct smart_host);

struct route {
    enum : uint8_t { ROUTE_MX, ROUTE_SMART_HOSTS } tag;
    struct smart_hosts smart_hosts;
};

struct tls_level {
    enum : uint8_t { TLS_LEVEL_OPPORTUNISTIC, TLS_LEVEL_ENCRYPT, TLS_LEVEL_VERIFY, TLS_LEVEL_NAME } tag;
    struct strings name;
};

enum dane : uint8_t { DANE_OPPORTUNISTIC, DANE_MANDATORY, DANE_NONE };

enum mta_sts : uint8_t { MTA_STS_OPPORTUNISTIC, MTA_STS_NONE };

struct protection {
    struct tls_level level;
    struct optional_u16 min_version;
    struct sha256s fingerprints;
    struct sha256s keys;
    struct strings authorities;
    enum dane dane;
    enum mta_sts mta_sts;
};

OPTIONAL(optional_protection, struct protection);

struct delivery {
    struct optional_string connector;
    struct route route;
    struct protection tls;
    struct optional_protection audit_tls;
    struct optional_string audit_connector;
    struct findings audit;
};

OPTIONAL(optional_delivery, struct delivery);

struct verdict {
    enum : uint8_t { VERDICT_ACCEPT, VERDICT_REJECT, VERDICT_DEFER, VERDICT_DELIVER } tag;
    union {
        struct acceptance accept;
        struct refusal reject;
        struct refusal defer;
        struct delivery deliver;
    };
};

enum outcome : uint8_t { OUTCOME_YES, OUTCOME_NO, OUTCOME_UNKNOWN };

struct selector_outcome {
    struct string selector;
    enum outcome matched;
    struct string pattern;
    struct string fact;
};

LIST(selector_outcomes, struct selector_outcome);

struct requirement_outcome {
    struct string requirement;
    enum outcome satisfied;
    struct string expected;
    struct string fact;
};

LIST(requirement_outcomes, struct requirement_outcome);

enum mode : uint8_t { MODE_ENFORCE, MODE_AUDIT, MODE_DISABLED };

struct consideration {
    struct string connector;
    enum mode mode;
    enum outcome matched;
    struct selector_outcomes selectors;
    struct requirement_outcomes requirements;
};

LIST(considerations, struct consideration);

struct explanation {
    struct verdict verdict;
    struct considerations considered;
    uint32_t others;
};

struct selectors {
    struct strings sender_domains;
    struct strings sender_ips;
    struct strings certificate_names;
    struct strings recipient_domains;
};

struct connector {
    struct string name;
    enum direction direction;
    enum mode mode;
    struct string applies_to;
    struct string requires;
    struct optional_string comment;
    struct selectors selects;
    struct optional_delivery delivery;
    struct facts reads;
};

LIST(connectors, struct connector);

struct named_authority { struct string name, connector; };

LIST(named_authorities, struct named_authority);

struct description {
    struct string organization;
    struct strings accepted_domains;
    struct facts reads;
    struct named_authorities authorities;
    uint32_t total;
    struct connectors connectors;
};

// What policy.c says: what becomes of a mail, and which facts it reads. A verdict points to what is constant, static or
// allocated, not to variables of a function.
struct verdict evaluate(const struct context *context);
extern const struct facts READS;

// Inbound: the mail is accepted.
struct verdict accept(void);
// The mail is refused for good; `failed` is a word for logs and metrics, `text` what the client reads.
struct verdict reject(struct string failed, struct string text);
// The mail is refused for now, since the policy cannot decide; `failed` says why in the log.
struct verdict defer(struct string failed);
// Outbound: the mail is delivered by the mail exchangers of its domain, with TLS of that level.
struct verdict deliver(struct tls_level level);

// Of text in quotes.
struct string string(const char *text);
struct string joined(struct string first, struct string second);
struct string decimal(uint64_t number);
bool equals(struct string string, const char *text);
// The domain of an address, in lower case.
struct string domain(struct string address);

// Memory, until the host has read the verdict. It need not be given back.
void *allocate(size_t size);
// Stops the policy. The mail is deferred, and the log has the functions that called this one.
_Noreturn void abort(void);
