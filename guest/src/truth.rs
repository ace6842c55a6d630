//! Three-valued logic (Kleene): what is compared with an unknown fact is neither true nor false.

use crate::Outcome;

/// A truth value. `and` is the smaller one, `or` the greater one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Truth {
    /// It does not hold.
    No,
    /// A fact that it depends on is unknown.
    Unknown,
    /// It holds.
    Yes,
}

impl Truth {
    /// Both hold.
    pub fn and(self, other: Truth) -> Truth {
        self.min(other)
    }

    /// One of them holds.
    pub fn or(self, other: Truth) -> Truth {
        self.max(other)
    }

    /// Whether it may hold.
    pub fn is_possible(self) -> bool {
        self != Truth::No
    }
}

impl core::ops::Not for Truth {
    type Output = Truth;

    fn not(self) -> Truth {
        match self {
            Truth::No => Truth::Yes,
            Truth::Unknown => Truth::Unknown,
            Truth::Yes => Truth::No,
        }
    }
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Self {
        match holds {
            true => Truth::Yes,
            false => Truth::No,
        }
    }
}

impl From<Truth> for Outcome {
    fn from(truth: Truth) -> Self {
        match truth {
            Truth::No => Outcome::No,
            Truth::Unknown => Outcome::Unknown,
            Truth::Yes => Outcome::Yes,
        }
    }
}
