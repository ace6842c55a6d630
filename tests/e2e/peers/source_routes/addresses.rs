//! The local parts that are tried.

/// Local parts that are refused at any tenant.
pub const ROUTES: &[&str] = &[
    // Percent hack.
    "bob%fabrikam.test",
    "bob%fabrikam.test%contoso.test",
    "bob%other.test",
    "\"bob%fabrikam.test\"",
    "\"bob%[127.0.0.8]\"",
    "\"bob\\%fabrikam.test\"",
    // Bang path.
    "fabrikam.test!bob",
    "contoso.test!fabrikam.test!bob",
    "other.test!fabrikam.test!bob",
    "other.test!bob",
    "\"fabrikam.test!bob\"",
    "fabrikam.test!bob%other.test",
    // Quoted at.
    "\"bob@fabrikam.test\"",
    "\"bob\\@fabrikam.test\"",
    "\"bob@other.test\"",
    "\"bob@[127.0.0.8]\"",
    "\"bob@[IPv6:::1]\"",
    "\"bob%other.test@fabrikam.test\"",
    "\"<bob@fabrikam.test>\"",
    "\"bob@fabrikam.test@contoso.test\"",
    // Quoted route.
    "\"@fabrikam.test:bob\"",
    "\"@contoso.test:bob@fabrikam.test\"",
    "\"@contoso.test,@fabrikam.test:bob@other.test\"",
    "\"<@contoso.test:bob@fabrikam.test>\"",
    // Specials.
    "\"fabrikam.test:bob\"",
    "\"fabrikam.test::bob\"",
    "\"bob;fabrikam.test\"",
    "\"bob,bob@fabrikam.test\"",
    "\"bob, carol\"",
    "\"bob (fabrikam.test)\"",
    "\"all: bob;\"",
    "\"bo\\\\b\"",
    "\"bo\\\"b\"",
    "\"[bob]\"",
    // Files, programs, options.
    "|/bin/true",
    "\"|/bin/true\"",
    "\"| /bin/true\"",
    "bob|true",
    "/etc/passwd",
    "\"/etc/passwd\"",
    "\":include:/etc/passwd\"",
    "\":fail: no\"",
    "\":blackhole:\"",
    "-fbob",
    "\"-oQ/tmp\"",
    "\".bob\"",
    "~bob",
    "~/bob",
    "${run{/bin/true}}",
    "\"${run{/bin/true}}\"",
];

/// Those of other scripts, which a server may take for the same after it has made them uniform.
pub const WIDE_ROUTES: &[&str] = &[
    "bob\u{ff05}fabrikam.test",
    "bob\u{fe6a}fabrikam.test",
    "bob\u{ff20}fabrikam.test",
    "bob\u{fe6b}fabrikam.test",
    "fabrikam.test\u{ff01}bob",
    "fabrikam.test\u{fe57}bob",
    "\u{ff5c}true",
    "\u{ff0f}etc\u{ff0f}passwd",
    "\"\u{ff20}fabrikam.test\u{ff1a}bob\"",
];

/// Whether they are refused is no matter; that they go nowhere else is.
pub const ODD: &[&str] = &[
    "bob=fabrikam.test",
    "bob^fabrikam.test",
    "fabrikam.test^bob",
    "bob~fabrikam.test",
    "bob#fabrikam.test",
    "bob+fabrikam.test",
    "bob--fabrikam.test",
    "bob?fabrikam.test",
    "`id`",
    "$bob",
    "$HOME",
    "{bob}",
    "*",
    "bob*fabrikam.test",
    "owner-bob",
    "SRS0=abcd=xy=fabrikam.test=bob",
    "prvs=0123456789=bob",
    "\"\"",
    "\" \"",
    "\"bob\t\"",
    "\"b\\ob\"",
    // Not as RFC 5321 has it.
    "bob%[127.0.0.8]",
    "../bob",
    "bob/../carol",
    "bob\\@fabrikam.test",
    "bob@fabrikam.test",
    "@fabrikam.test:bob",
    "bob:fabrikam.test",
    "fabrikam.test::bob",
    "bob;fabrikam.test",
    "bob,carol",
    "bob(fabrikam.test)",
    ".bob",
    "bob.",
    "bo..b",
    ":include:/etc/passwd",
];

/// Those are taken, and delivered.
pub const ORDINARY: &[&str] = &[
    "bob",
    "first.last+tag=x",
    "O'Brien",
    "\"john smith\"",
    "a-b_c",
    "bob~x",
    "x#y",
    "caf\u{e9}",
];

/// Where mail ends that has followed a route.
const FABRIKAM: &str = "fabrikam: <bob@fabrikam.test>";
const OTHER: &str = "elsewhere: <bob@other.test>";
const LITERAL: &str = "elsewhere: <bob@[127.0.0.8]>";

/// What becomes of routes in Postfix, Exim and Sendmail; nothing stands where one does not follow the route.
pub const FOLLOWED: &[(&str, [&str; 3])] = &[
    ("bob%fabrikam.test", [FABRIKAM, FABRIKAM, FABRIKAM]),
    (
        "bob%fabrikam.test%contoso.test",
        [FABRIKAM, FABRIKAM, FABRIKAM],
    ),
    ("bob%other.test", [OTHER, OTHER, OTHER]),
    ("\"bob%fabrikam.test\"", [FABRIKAM, FABRIKAM, FABRIKAM]),
    ("\"bob%[127.0.0.8]\"", [LITERAL, LITERAL, LITERAL]),
    ("\"bob\\%fabrikam.test\"", [FABRIKAM, FABRIKAM, ""]),
    ("fabrikam.test!bob", [FABRIKAM, "", FABRIKAM]),
    ("contoso.test!fabrikam.test!bob", [FABRIKAM, "", FABRIKAM]),
    (
        "other.test!fabrikam.test!bob",
        [
            "elsewhere: <fabrikam.test!bob@other.test>",
            "",
            "elsewhere: <fabrikam.test!bob@other.test>",
        ],
    ),
    ("other.test!bob", [OTHER, "", OTHER]),
    ("\"fabrikam.test!bob\"", [FABRIKAM, "", FABRIKAM]),
    (
        "fabrikam.test!bob%other.test",
        [
            "fabrikam: <bob%other.test@fabrikam.test>",
            "elsewhere: <fabrikam.test!bob@other.test>",
            "fabrikam: <bob%other.test@fabrikam.test>",
        ],
    ),
    ("\"bob@fabrikam.test\"", [FABRIKAM, "", FABRIKAM]),
    ("\"bob\\@fabrikam.test\"", [FABRIKAM, "", ""]),
    ("\"bob@other.test\"", [OTHER, "", OTHER]),
    ("\"bob@[127.0.0.8]\"", [LITERAL, "", LITERAL]),
    (
        "\"bob@[IPv6:::1]\"",
        [
            "elsewhere: <bob@[IPv6:::1]>",
            "",
            "elsewhere: <bob@[IPv6:::1]>",
        ],
    ),
    (
        "\"bob%other.test@fabrikam.test\"",
        [
            "fabrikam: <bob%other.test@fabrikam.test>",
            "elsewhere: <bob@other.test@fabrikam.test>",
            "fabrikam: <bob%other.test@fabrikam.test>",
        ],
    ),
    ("\"<bob@fabrikam.test>\"", ["", "", FABRIKAM]),
    ("\"bob@fabrikam.test@contoso.test\"", [FABRIKAM, "", ""]),
    (
        "\"@contoso.test:bob@fabrikam.test\"",
        [FABRIKAM, "", FABRIKAM],
    ),
    (
        "\"@contoso.test,@fabrikam.test:bob@other.test\"",
        [OTHER, "", OTHER],
    ),
    (
        "\"bob,bob@fabrikam.test\"",
        ["fabrikam: <\"bob,bob\"@fabrikam.test>", "", ""],
    ),
];
