//! Tests that load the machine, or measure how a loaded one behaves. The tests of one program run side by side, as many
//! as there are processors; these say what they bear beside them.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static MACHINE: RwLock<()> = RwLock::new(());

/// While this is held, no test runs that has asked for either.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    // A test that has failed leaves nothing behind.
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// While this is held, no test runs that has to be alone. A test asks once, before anything else.
pub fn shared() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}
