//! From and to the types that are generated from `wit/policy.wit`.

/// Makes `From` implementations between the generated types of an `evaluation` interface and those of this crate.
///
/// The generators of hosts and of guests name everything alike, so one list serves both.
#[macro_export]
macro_rules! conversions {
    ($wit:path) => {
        const _: () = {
            use $wit as wit;

            $crate::conversions!(enums wit {
                Direction { Inbound, Outbound }
                Trust { Trusted, Expired, UnknownIssuer, NotYetValid, Revoked, Invalid }
                Mode { Enforce, Audit, Disabled }
                Dane { Opportunistic, Mandatory, None }
                MtaSts { Opportunistic, None }
                Outcome { Yes, No, Unknown }
                Fact {
                    ClientIp, MailFrom, RcptTo, HeaderFrom, Tls, TlsVersion, Certificate, CertificateNames,
                    CertificateSha256, CertificateKey, CertificateTrust, CertificateAnchors
                }
            });
            $crate::conversions!(from wit {
                Acceptance { connectors, audit: all }
                Finding { connector, failed }
                Refusal { connector, failed, code, enhanced, text, audit: all }
                Delivery { connector, route, tls, audit_tls: option, audit_connector, audit: all }
                Protection { level, min_version, fingerprints: all, keys: all, authorities, dane, mta_sts }
                SmartHost { host, port }
                Explanation { verdict, considered: all, others }
                Consideration { connector, mode, matched, selectors: all, requirements: all }
                SelectorOutcome { selector, matched, pattern, fact }
                RequirementOutcome { requirement, satisfied, expected, fact }
                Description { organization, accepted_domains, reads: all, authorities: all, total, connectors: all }
                NamedAuthority { name, connector }
                Connector { name, direction, mode, applies_to, requires, comment, selects, delivery: option, reads: all }
                Selectors { sender_domains, sender_ips, certificate_names, recipient_domains }
                Context { direction, client_ip, helo, security, mail_from, rcpt_to, header_from, attributes: all }
                Tls { version, cipher, certificate }
                Certificate { dns_names, subject, issuer, sha256: option, key_sha256: option, not_after, trust: option, anchors }
                Attribute { name, value }
            });
            $crate::conversions!(into wit {
                Context { direction, client_ip, helo, security, mail_from, rcpt_to, header_from, attributes: all }
                Tls { version, cipher, certificate }
                Certificate { dns_names, subject, issuer, sha256: option, key_sha256: option, not_after, trust: option, anchors }
                Attribute { name, value }
            });
            impl From<wit::Verdict> for $crate::Verdict {
                fn from(verdict: wit::Verdict) -> Self {
                    match verdict {
                        wit::Verdict::Accept(it) => $crate::Verdict::Accept(it.into()),
                        wit::Verdict::Reject(it) => $crate::Verdict::Reject(it.into()),
                        wit::Verdict::Defer(it) => $crate::Verdict::Defer(it.into()),
                        wit::Verdict::Deliver(it) => $crate::Verdict::Deliver(it.into()),
                    }
                }
            }

            impl From<wit::Route> for $crate::Route {
                fn from(route: wit::Route) -> Self {
                    match route {
                        wit::Route::Mx => $crate::Route::Mx,
                        wit::Route::SmartHosts(hosts) => $crate::Route::SmartHosts(hosts.into_iter().map(Into::into).collect()),
                    }
                }
            }

            impl From<wit::TlsLevel> for $crate::TlsLevel {
                fn from(level: wit::TlsLevel) -> Self {
                    match level {
                        wit::TlsLevel::Opportunistic => $crate::TlsLevel::Opportunistic,
                        wit::TlsLevel::Encrypt => $crate::TlsLevel::Encrypt,
                        wit::TlsLevel::Verify => $crate::TlsLevel::Verify,
                        wit::TlsLevel::Name(names) => $crate::TlsLevel::Name(names),
                    }
                }
            }

            impl From<wit::Host> for $crate::Host {
                fn from(host: wit::Host) -> Self {
                    match host {
                        wit::Host::Name(name) => $crate::Host::Name(name),
                        wit::Host::Address(address) => $crate::Host::Address(address.into()),
                    }
                }
            }

            impl From<wit::IpAddress> for core::net::IpAddr {
                fn from(address: wit::IpAddress) -> Self {
                    match address {
                        wit::IpAddress::Ipv4(bits) => core::net::Ipv4Addr::from_bits(bits).into(),
                        wit::IpAddress::Ipv6((high, low)) => {
                            let bits = u128::from(high) << 64 | u128::from(low);
                            core::net::IpAddr::from(core::net::Ipv6Addr::from_bits(bits)).to_canonical()
                        }
                    }
                }
            }

            impl From<core::net::IpAddr> for wit::IpAddress {
                fn from(ip: core::net::IpAddr) -> Self {
                    match ip.to_canonical() {
                        core::net::IpAddr::V4(ip) => wit::IpAddress::Ipv4(ip.to_bits()),
                        core::net::IpAddr::V6(ip) => {
                            let bits = ip.to_bits();
                            wit::IpAddress::Ipv6(((bits >> 64) as u64, bits as u64))
                        }
                    }
                }
            }

            $crate::conversions!(variants wit {
                ClientAddress { None } Known { Unknown }
                Security as SessionSecurity { Plaintext } Encrypted { Unknown }
                PeerCertificate { None } Presented { Unknown }
            });

            impl From<wit::HeaderFrom> for $crate::HeaderFrom {
                fn from(header: wit::HeaderFrom) -> Self {
                    match header {
                        wit::HeaderFrom::Pending => $crate::HeaderFrom::Pending,
                        wit::HeaderFrom::Addresses(addresses) => $crate::HeaderFrom::Addresses(addresses),
                        wit::HeaderFrom::Unknown => $crate::HeaderFrom::Unknown,
                    }
                }
            }

            impl From<$crate::HeaderFrom> for wit::HeaderFrom {
                fn from(header: $crate::HeaderFrom) -> Self {
                    match header {
                        $crate::HeaderFrom::Pending => wit::HeaderFrom::Pending,
                        $crate::HeaderFrom::Addresses(addresses) => wit::HeaderFrom::Addresses(addresses),
                        $crate::HeaderFrom::Unknown => wit::HeaderFrom::Unknown,
                    }
                }
            }
        };
    };
    (enums $module:ident { $($name:ident { $($variant:ident),+ })+ }) => {
        $(
            impl From<$module::$name> for $crate::$name {
                fn from(value: $module::$name) -> Self {
                    match value { $($module::$name::$variant => $crate::$name::$variant,)+ }
                }
            }

            impl From<$crate::$name> for $module::$name {
                fn from(value: $crate::$name) -> Self {
                    match value { $($crate::$name::$variant => $module::$name::$variant,)+ }
                }
            }
        )+
    };
    (from $module:ident { $($name:ident { $($field:ident $(: $each:ident)?),+ })+ }) => {
        $(
            impl From<$module::$name> for $crate::$name {
                fn from(value: $module::$name) -> Self {
                    $crate::$name { $($field: $crate::conversions!(field value.$field $($each)?),)+ }
                }
            }
        )+
    };
    (into $module:ident { $($name:ident { $($field:ident $(: $each:ident)?),+ })+ }) => {
        $(
            impl From<$crate::$name> for $module::$name {
                fn from(value: $crate::$name) -> Self {
                    $module::$name { $($field: $crate::conversions!(field value.$field $($each)?),)+ }
                }
            }
        )+
    };
    (field $value:ident.$field:ident) => {
        $value.$field.into()
    };
    (field $value:ident.$field:ident all) => {
        $value.$field.into_iter().map(Into::into).collect()
    };
    (field $value:ident.$field:ident option) => {
        $value.$field.map(Into::into)
    };
    (variants $module:ident { $($name:ident $(as $other:ident)? { $none:ident } $some:ident { $unknown:ident })+ }) => {
        $($crate::conversions!(variant $module $name [$($other)? $name] $none $some $unknown);)+
    };
    (variant $module:ident $name:ident [$other:ident $($rest:ident)?] $none:ident $some:ident $unknown:ident) => {
        impl From<$module::$other> for $crate::$name {
            fn from(value: $module::$other) -> Self {
                match value {
                    $module::$other::$none => $crate::$name::$none,
                    $module::$other::$some(it) => $crate::$name::$some(it.into()),
                    $module::$other::$unknown => $crate::$name::$unknown,
                }
            }
        }

        impl From<$crate::$name> for $module::$other {
            fn from(value: $crate::$name) -> Self {
                match value {
                    $crate::$name::$none => $module::$other::$none,
                    $crate::$name::$some(it) => $module::$other::$some(it.into()),
                    $crate::$name::$unknown => $module::$other::$unknown,
                }
            }
        }
    };
}

/// The same for what is written of a `rules` interface.
#[macro_export]
macro_rules! rules_conversions {
    ($rules:path) => {
        const _: () = {
            use $rules as rules;

    $crate::conversions!(enums rules { Severity { Error, Warning } });
            $crate::conversions!(from rules {
                Problem { severity, code, path, line, column, length, message, hint }
                Summary { connectors, tests, warnings: all }
            });
        };
    };
}
