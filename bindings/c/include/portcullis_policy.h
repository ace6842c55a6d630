/*
 * Portcullis policies in a mail server written in C, on the component model of wasmtime's C API.
 *
 * A policy is a component that exports portcullis:policy/evaluation@0.1.0 and imports nothing: what `portcullis build`
 * makes. wit/policy.wit says what the facts and the verdicts mean, docs/embedding.md what a mail server owes.
 *
 *     pc_engine *engine;
 *     pc_policy *policy;
 *     pc_error *error = pc_engine_new(NULL, &engine);
 *     if (error == NULL)
 *         error = pc_policy_load(engine, octets, length, &policy);
 *     pc_session *session = pc_session_new(policy); // one for each SMTP session
 *     pc_decision decision;
 *     error = pc_decide(session, &context, &decision); // the decision is there in any case
 *     pc_decision_free(&decision);
 *
 * An engine and a policy are for any number of threads, a session for one at a time. Texts are UTF-8 and end with a
 * zero; an optional text is NULL where it is absent. What is given to a function is only read, and only while it runs.
 *
 * wasmtime handles the signals SIGSEGV, SIGILL and SIGFPE, and passes on those that are not a policy's: a program that
 * has handlers of its own installs them before it makes an engine. Where there is no memory, wasmtime ends the process.
 */
#ifndef PORTCULLIS_POLICY_H
#define PORTCULLIS_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct sockaddr;

/* What all policies run on. It is freed after them. */
typedef struct pc_engine pc_engine;
/* A policy that is loaded. */
typedef struct pc_policy pc_policy;
/* An instance of a policy, for the recipients of one SMTP session. */
typedef struct pc_session pc_session;
/* Why something failed. */
typedef struct pc_error pc_error;

/* Errors */

typedef enum pc_error_kind {
    PC_ERROR_SYSTEM = 1, /* There is no memory, no thread, or no such limit. */
    PC_ERROR_COMPONENT,  /* It is no component. */
    PC_ERROR_INTERFACE,  /* It is a component, but no policy of this version, or it imports something. */
    PC_ERROR_CONTEXT,    /* The context has no direction, no address, or text that is not UTF-8. */
    PC_ERROR_TIMEOUT,    /* The policy has not answered in time. */
    PC_ERROR_TRAP,       /* The policy has crashed, or was denied memory or stack. */
    PC_ERROR_VERDICT     /* The policy has answered with what cannot be carried out. */
} pc_error_kind;

pc_error_kind pc_error_get_kind(const pc_error *error);
/* One line. It lives as long as the error. */
const char *pc_error_message(const pc_error *error);
void pc_error_free(pc_error *error);

/* Engines and policies */

typedef struct pc_limits {
    unsigned timeout_ms; /* Of one evaluation, in a fresh instance or not: 1 to 86400000; 50 if 0. */
    size_t memory;       /* Bytes of each memory, of which a policy has up to 6: 1.25 MiB to 4 GiB; 64 MiB if 0. */
    size_t stack;        /* Bytes: 64 KiB to 2 MiB; 512 KiB if 0. A thread that evaluates needs 256 KiB more. */
} pc_limits;

/* An engine with these limits; NULL stands for zeros. It has one thread, which sleeps while nothing is evaluated. */
pc_error *pc_engine_new(const pc_limits *limits, pc_engine **engine);
void pc_engine_free(pc_engine *engine);

/* A fork leaves the engine's thread behind, and without it no evaluation would end. The child calls this before
 * anything else; evaluations fail until then. No other thread of the parent may use the engine during the fork. */
pc_error *pc_engine_after_fork(pc_engine *engine);

/* Compiles a component, and tries it out. Compilation has no limits: load what you trust to that extent. */
pc_error *pc_policy_load(pc_engine *engine, const void *octets, size_t length, pc_policy **policy);
/* Sessions that have it keep it. */
void pc_policy_free(pc_policy *policy);

/* The facts that a policy may read. */
typedef enum pc_fact {
    PC_FACT_CLIENT_IP,
    PC_FACT_MAIL_FROM,
    PC_FACT_RCPT_TO,
    PC_FACT_HEADER_FROM,
    PC_FACT_TLS,
    PC_FACT_TLS_VERSION,
    PC_FACT_CERTIFICATE,
    PC_FACT_CERTIFICATE_NAMES,
    PC_FACT_CERTIFICATE_SHA256,
    PC_FACT_CERTIFICATE_KEY,
    PC_FACT_CERTIFICATE_TRUST,
    PC_FACT_CERTIFICATE_ANCHORS
} pc_fact;

/* Whether the policy reads a fact. If it reads PC_FACT_HEADER_FROM, inbound mail is decided again when the header is
 * there. */
bool pc_policy_reads(const pc_policy *policy, pc_fact fact);

/* NULL if there is no memory. */
pc_session *pc_session_new(pc_policy *policy);
void pc_session_free(pc_session *session);

/* Contexts. Where all is zero, all is unknown, and the name of HELO is absent. The direction and the envelope must be
 * given. */

typedef struct pc_strings {
    const char *const *at;
    size_t count;
} pc_strings;

typedef struct pc_sha256 {
    uint8_t octets[32];
} pc_sha256;

typedef struct pc_address {
    bool is_ipv6;
    uint8_t octets[16]; /* In network order; the first 4 are an IPv4 address. */
} pc_address;

typedef enum pc_direction { PC_INBOUND = 1, PC_OUTBOUND } pc_direction;

typedef enum pc_client_kind { PC_CLIENT_UNKNOWN, PC_CLIENT_NONE, PC_CLIENT_KNOWN } pc_client_kind;

typedef struct pc_client {
    pc_client_kind kind;
    pc_address address; /* if known */
} pc_client;

/* The client at an address: none for a local socket. */
pc_client pc_client_at(const struct sockaddr *address);

typedef enum pc_trust {
    PC_TRUST_UNKNOWN,
    PC_TRUST_TRUSTED,
    PC_TRUST_EXPIRED,
    PC_TRUST_UNKNOWN_ISSUER,
    PC_TRUST_NOT_YET_VALID,
    PC_TRUST_REVOKED,
    PC_TRUST_INVALID
} pc_trust;

/* A NULL is unknown. */
typedef struct pc_certificate {
    const pc_strings *dns_names;
    const char *subject;
    const char *issuer;
    const pc_sha256 *sha256;
    const pc_sha256 *key_sha256;
    const int64_t *not_after; /* Seconds since 1970. */
    pc_trust trust;
    const pc_strings *anchors;
} pc_certificate;

typedef enum pc_certificate_kind {
    PC_CERTIFICATE_UNKNOWN,
    PC_CERTIFICATE_NONE,
    PC_CERTIFICATE_PRESENTED
} pc_certificate_kind;

typedef struct pc_tls {
    uint16_t version; /* On the wire: 0x0304 is TLS 1.3. 0 is unknown. */
    const char *cipher;
    pc_certificate_kind certificate_kind;
    pc_certificate certificate; /* if presented */
} pc_tls;

typedef enum pc_security { PC_SECURITY_UNKNOWN, PC_SECURITY_PLAINTEXT, PC_SECURITY_ENCRYPTED } pc_security;

typedef enum pc_header_kind { PC_HEADER_UNKNOWN, PC_HEADER_PENDING, PC_HEADER_ADDRESSES } pc_header_kind;

typedef struct pc_attribute {
    const char *name;
    const char *value;
} pc_attribute;

/* The facts about one recipient of one message. */
typedef struct pc_context {
    pc_direction direction;
    pc_client client;
    const char *helo;
    pc_security security;
    pc_tls tls;            /* if encrypted */
    const char *mail_from; /* Without angle brackets; empty for <>. */
    const char *rcpt_to;
    pc_header_kind header_kind; /* Pending at RCPT TO, if the header will be there later. */
    pc_strings header_from;     /* if its addresses are known */
    const pc_attribute *attributes;
    size_t attribute_count;
} pc_context;

/* Decisions */

typedef enum pc_verdict { PC_DEFER, PC_REJECT, PC_ACCEPT, PC_DELIVER } pc_verdict;

typedef struct pc_finding {
    const char *connector;
    const char *failed;
} pc_finding;

typedef struct pc_smart_host {
    const char *name;   /* NULL: it is the address. A name is resolved as MX first. */
    pc_address address;
    uint16_t port;
} pc_smart_host;

typedef enum pc_level { PC_LEVEL_OPPORTUNISTIC, PC_LEVEL_ENCRYPT, PC_LEVEL_VERIFY, PC_LEVEL_NAME } pc_level;
typedef enum pc_dane { PC_DANE_OPPORTUNISTIC, PC_DANE_MANDATORY, PC_DANE_NONE } pc_dane;
typedef enum pc_mta_sts { PC_MTA_STS_OPPORTUNISTIC, PC_MTA_STS_NONE } pc_mta_sts;

/* What the next hop must satisfy before mail is sent to it. All of it must hold. */
typedef struct pc_protection {
    pc_level level;
    pc_strings names;     /* of PC_LEVEL_NAME: the certificate has one of them */
    uint16_t min_version; /* 0: any */
    const pc_sha256 *fingerprints;
    size_t fingerprint_count;
    const pc_sha256 *keys;
    size_t key_count;
    pc_strings authorities;
    pc_dane dane;
    pc_mta_sts mta_sts;
} pc_protection;

typedef struct pc_decision {
    pc_verdict verdict;

    /* The connector that refuses or delivers; NULL if no single one does. */
    const char *connector;
    /* What connectors in audit mode would have refused. */
    const pc_finding *audit;
    size_t audit_count;

    /* Defer and reject: the reply, and the stable name of its reason. The codes are of the verdict's class, the text
     * is one printable line of any length. */
    unsigned code;
    const char *enhanced;
    const char *text;
    const char *failed;

    /* Accept (inbound mail only): the connectors that matched. */
    pc_strings connectors;

    /* Deliver (outbound mail only): by these hosts in order, or by the mail exchangers of the recipient's domain if
     * there are none. */
    const pc_smart_host *smart_hosts;
    size_t smart_host_count;
    pc_protection tls;
    /* What a connector in audit mode asks for, and which one if it is another; NULL if none does. */
    const pc_protection *audit_tls;
    const char *audit_connector;

    void *memory; /* What the rest points to. */
} pc_decision;

/* Decides about one recipient. On an error the decision defers the mail (451 4.3.0), and the next call begins with a
 * fresh instance. Whatever `decision` held before is overwritten; pc_decision_free frees what it holds then. */
pc_error *pc_decide(pc_session *session, const pc_context *context, pc_decision *decision);
void pc_decision_free(pc_decision *decision);

#ifdef __cplusplus
}
#endif

#endif
