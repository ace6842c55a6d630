/* Whether a component is a policy: its types are compared with those of wit/policy.wit, written as text with a comma
 * after each part. */

#include "internal.h"

#include <string.h>

typedef wasmtime_component_valtype_t value_type;

#define SHA256 "tuple<u64,u64,u64,u64,>"
#define IP_ADDRESS "variant{ipv4:u32,ipv6:tuple<u64,u64,>,}"
#define DIRECTION "enum{inbound,outbound,}"
#define CERTIFICATE                                                                                                    \
    "record{dns-names:option<list<string,>,>,subject:string,issuer:string,sha256:option<" SHA256 ",>,"               \
    "key-sha256:option<" SHA256 ",>,not-after:option<s64,>,"                                                         \
    "trust:option<enum{trusted,expired,unknown-issuer,not-yet-valid,revoked,invalid,},>,"                            \
    "anchors:option<list<string,>,>,}"
#define SECURITY                                                                                                       \
    "variant{plaintext,encrypted:record{version:option<u16,>,cipher:string,"                                         \
    "certificate:variant{none,presented:" CERTIFICATE ",unknown,},},unknown,}"
#define CONTEXT                                                                                                        \
    "record{direction:" DIRECTION ",client-ip:variant{none,known:" IP_ADDRESS ",unknown,},helo:option<string,>,"     \
    "security:" SECURITY ",mail-from:string,rcpt-to:string,"                                                         \
    "header-from:variant{pending,addresses:list<string,>,unknown,},"                                                 \
    "attributes:list<record{name:string,value:string,},>,}"
#define FINDINGS "list<record{connector:string,failed:string,},>"
#define REFUSAL                                                                                                        \
    "record{connector:option<string,>,failed:string,code:u16,enhanced:string,text:string,audit:" FINDINGS ",}"
#define PROTECTION                                                                                                     \
    "record{level:variant{opportunistic,encrypt,verify,name:list<string,>,},min-version:option<u16,>,"               \
    "fingerprints:list<" SHA256 ",>,keys:list<" SHA256 ",>,authorities:list<string,>,"                               \
    "dane:enum{opportunistic,mandatory,none,},mta-sts:enum{opportunistic,none,},}"
#define SMART_HOST "record{host:variant{name:string,address:" IP_ADDRESS ",},port:option<u16,>,}"
#define DELIVERY                                                                                                       \
    "record{connector:option<string,>,route:variant{mx,smart-hosts:list<" SMART_HOST ",>,},tls:" PROTECTION ","      \
    "audit-tls:option<" PROTECTION ",>,audit-connector:option<string,>,audit:" FINDINGS ",}"
#define READS                                                                                                          \
    "list<enum{client-ip,mail-from,rcpt-to,header-from,tls,tls-version,certificate,certificate-names,"               \
    "certificate-sha256,certificate-key,certificate-trust,certificate-anchors,},>"
#define CONNECTOR                                                                                                      \
    "record{name:string,direction:" DIRECTION ",mode:enum{enforce,audit,disabled,},applies-to:string,"               \
    "requires:string,comment:option<string,>,selects:record{sender-domains:list<string,>,sender-ips:list<string,>,"  \
    "certificate-names:list<string,>,recipient-domains:list<string,>,},delivery:option<" DELIVERY ",>,"              \
    "reads:" READS ",}"

#define EVALUATE                                                                                                       \
    CONTEXT ",variant{accept:record{connectors:list<string,>,audit:" FINDINGS ",},reject:" REFUSAL                   \
            ",defer:" REFUSAL ",deliver:" DELIVERY ",},"
#define DESCRIBE                                                                                                       \
    "u32,u32,record{organization:string,accepted-domains:list<string,>,reads:" READS ","                             \
    "authorities:list<record{name:string,connector:string,},>,total:u32,connectors:list<" CONNECTOR ",>,},"

/* Whether the rest begins with a text, which is left behind then. */
static bool skip(const char **rest, const char *text, size_t length)
{
    bool begins = strncmp(*rest, text, length) == 0;
    *rest += begins ? length : 0;
    return begins;
}

static bool skip_text(const char **rest, const char *text)
{
    return skip(rest, text, strlen(text));
}

static bool is_type(const value_type *type, const char **rest);

/* One part of a type, which this takes, with its name if it has one. */
static bool is_part(value_type *type, const char **rest, const char *name, size_t length)
{
    bool is = name == NULL || (skip(rest, name, length) && skip_text(rest, ":"));
    is = is && is_type(type, rest) && skip_text(rest, ",");
    wasmtime_component_valtype_delete(type);
    return is;
}

static bool is_record(const wasmtime_component_record_type_t *type, const char **rest)
{
    bool is = skip_text(rest, "record{");
    for (size_t i = 0, count = wasmtime_component_record_type_field_count(type); is && i < count; i++) {
        const char *name;
        size_t length;
        value_type part;
        is = wasmtime_component_record_type_field_nth(type, i, &name, &length, &part) &&
             is_part(&part, rest, name, length);
    }
    return is && skip_text(rest, "}");
}

static bool is_variant(const wasmtime_component_variant_type_t *type, const char **rest)
{
    bool is = skip_text(rest, "variant{");
    for (size_t i = 0, count = wasmtime_component_variant_type_case_count(type); is && i < count; i++) {
        const char *name;
        size_t length;
        bool has_part;
        value_type part;
        is = wasmtime_component_variant_type_case_nth(type, i, &name, &length, &has_part, &part) &&
             (has_part ? is_part(&part, rest, name, length) : skip(rest, name, length) && skip_text(rest, ","));
    }
    return is && skip_text(rest, "}");
}

static bool is_enum(const wasmtime_component_enum_type_t *type, const char **rest)
{
    bool is = skip_text(rest, "enum{");
    for (size_t i = 0, count = wasmtime_component_enum_type_names_count(type); is && i < count; i++) {
        const char *name;
        size_t length;
        is = wasmtime_component_enum_type_names_nth(type, i, &name, &length) && skip(rest, name, length) &&
             skip_text(rest, ",");
    }
    return is && skip_text(rest, "}");
}

static bool is_tuple(const wasmtime_component_tuple_type_t *type, const char **rest)
{
    bool is = skip_text(rest, "tuple<");
    for (size_t i = 0, count = wasmtime_component_tuple_type_types_count(type); is && i < count; i++) {
        value_type part;
        is = wasmtime_component_tuple_type_types_nth(type, i, &part) && is_part(&part, rest, NULL, 0);
    }
    return is && skip_text(rest, ">");
}

static bool is_type(const value_type *type, const char **rest)
{
    value_type part;
    switch (type->kind) {
    case WASMTIME_COMPONENT_VALTYPE_STRING:
        return skip_text(rest, "string");
    case WASMTIME_COMPONENT_VALTYPE_U16:
        return skip_text(rest, "u16");
    case WASMTIME_COMPONENT_VALTYPE_U32:
        return skip_text(rest, "u32");
    case WASMTIME_COMPONENT_VALTYPE_U64:
        return skip_text(rest, "u64");
    case WASMTIME_COMPONENT_VALTYPE_S64:
        return skip_text(rest, "s64");
    case WASMTIME_COMPONENT_VALTYPE_LIST:
        if (!skip_text(rest, "list<"))
            return false;
        wasmtime_component_list_type_element(type->of.list, &part);
        return is_part(&part, rest, NULL, 0) && skip_text(rest, ">");
    case WASMTIME_COMPONENT_VALTYPE_OPTION:
        if (!skip_text(rest, "option<"))
            return false;
        wasmtime_component_option_type_ty(type->of.option, &part);
        return is_part(&part, rest, NULL, 0) && skip_text(rest, ">");
    case WASMTIME_COMPONENT_VALTYPE_TUPLE:
        return is_tuple(type->of.tuple, rest);
    case WASMTIME_COMPONENT_VALTYPE_RECORD:
        return is_record(type->of.record, rest);
    case WASMTIME_COMPONENT_VALTYPE_VARIANT:
        return is_variant(type->of.variant, rest);
    case WASMTIME_COMPONENT_VALTYPE_ENUM:
        return is_enum(type->of.enum_, rest);
    default:
        return false;
    }
}

/* Whether an interface has a function of a type: its parameters, then its result. */
static bool has_function(const wasm_engine_t *engine, const wasmtime_component_instance_type_t *interface,
                         const char *name, const char *expected)
{
    wasmtime_component_extern_t *export;
    wasmtime_component_item_t item;
    value_type part;
    if (!wasmtime_component_instance_type_export_get(interface, engine, name, strlen(name), &export))
        return false;
    wasmtime_component_extern_type(export, &item);
    bool is = item.kind == WASMTIME_COMPONENT_ITEM_COMPONENT_FUNC;
    if (is) {
        const wasmtime_component_func_type_t *type = item.of.component_func;
        for (size_t i = 0, count = wasmtime_component_func_type_param_count(type); is && i < count; i++) {
            const char *parameter;
            size_t length;
            is = wasmtime_component_func_type_param_nth(type, i, &parameter, &length, &part) &&
                 is_part(&part, &expected, NULL, 0);
        }
        is = is && wasmtime_component_func_type_result(type, &part) && is_part(&part, &expected, NULL, 0);
    }
    wasmtime_component_item_delete(&item);
    wasmtime_component_extern_delete(export);
    return is && *expected == '\0';
}

static pc_error *check_exports(const wasm_engine_t *engine, const wasmtime_component_type_t *type)
{
    wasmtime_component_extern_t *export;
    wasmtime_component_item_t item;
    if (!wasmtime_component_type_export_get(type, engine, EVALUATION, strlen(EVALUATION), &export))
        return pc_fail(PC_ERROR_INTERFACE, "this is not a policy: it does not export " EVALUATION);
    wasmtime_component_extern_type(export, &item);
    bool is = item.kind == WASMTIME_COMPONENT_ITEM_COMPONENT_INSTANCE &&
              has_function(engine, item.of.component_instance, "evaluate", EVALUATE) &&
              has_function(engine, item.of.component_instance, "describe", DESCRIBE);
    wasmtime_component_item_delete(&item);
    wasmtime_component_extern_delete(export);
    return is ? NULL : pc_fail(PC_ERROR_INTERFACE, "this is not a policy: its " EVALUATION " is another interface");
}

pc_error *pc_check_interface(const wasm_engine_t *engine, const wasmtime_component_t *component)
{
    pc_error *error;
    wasmtime_component_type_t *type = wasmtime_component_type(component);
    wasmtime_component_extern_t *import;
    const char *name;
    size_t length;
    if (wasmtime_component_type_import_nth(type, engine, 0, &name, &length, &import)) {
        wasmtime_component_extern_delete(import);
        error = pc_fail(PC_ERROR_INTERFACE, "the policy imports what this host does not give: %.*s",
                     length < 100 ? (int)length : 100, name);
    } else {
        error = check_exports(engine, type);
    }
    wasmtime_component_type_delete(type);
    return error;
}
