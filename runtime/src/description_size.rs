//! How much memory what a policy says of itself takes: a foreign one may say anything.

use portcullis_types::{
    Connector, Delivery, Finding, Host, Protection, Route, Selectors, SmartHost, TlsLevel,
};

/// Of a connector, in bytes.
pub fn of(connector: &Connector) -> usize {
    let Connector {
        name,
        direction: _,
        mode: _,
        applies_to,
        requires,
        comment,
        selects,
        delivery,
        reads,
    } = connector;
    let Selectors {
        sender_domains,
        sender_ips,
        certificate_names,
        recipient_domains,
    } = selects;
    let lists = [
        sender_domains,
        sender_ips,
        certificate_names,
        recipient_domains,
    ];
    size_of::<Connector>()
        + [name, applies_to, requires]
            .map(String::len)
            .iter()
            .sum::<usize>()
        + optional(comment)
        + lists.map(|list| texts(list)).iter().sum::<usize>()
        + size_of_val(&**reads)
        + delivery.as_ref().map_or(0, of_delivery)
}

fn of_delivery(delivery: &Delivery) -> usize {
    let Delivery {
        connector,
        route,
        tls,
        audit_tls,
        audit_connector,
        audit,
    } = delivery;
    let route = match route {
        Route::Mx => 0,
        Route::SmartHosts(hosts) => {
            size_of_val(&**hosts) + hosts.iter().map(of_smart_host).sum::<usize>()
        }
    };
    optional(connector)
        + route
        + of_protection(tls)
        + audit_tls.as_ref().map_or(0, of_protection)
        + optional(audit_connector)
        + size_of_val(&**audit)
        + audit.iter().map(of_finding).sum::<usize>()
}

fn of_smart_host(host: &SmartHost) -> usize {
    match &host.host {
        Host::Name(name) => name.len(),
        Host::Address(_) => 0,
    }
}

fn of_finding(finding: &Finding) -> usize {
    let Finding { connector, failed } = finding;
    connector.len() + failed.len()
}

fn of_protection(protection: &Protection) -> usize {
    let Protection {
        level,
        min_version: _,
        fingerprints,
        keys,
        authorities,
        dane: _,
        mta_sts: _,
    } = protection;
    let names = match level {
        TlsLevel::Opportunistic | TlsLevel::Encrypt | TlsLevel::Verify => 0,
        TlsLevel::Name(names) => texts(names),
    };
    names + size_of_val(&**fingerprints) + size_of_val(&**keys) + texts(authorities)
}

fn optional(text: &Option<String>) -> usize {
    text.as_ref().map_or(0, String::len)
}

fn texts(texts: &[String]) -> usize {
    size_of_val(texts) + texts.iter().map(String::len).sum::<usize>()
}
