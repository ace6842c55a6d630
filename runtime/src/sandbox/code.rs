//! Compiled policies.

use std::sync::Arc;

use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Linker};

use super::disk_cache::Entry;
use super::inspect::{EVALUATION, PACKED_RULES};
use super::state::State;
use crate::bindings::policy::PolicyPre;

/// Where a policy's native code is.
#[derive(Clone)]
pub enum Code {
    /// In memory, as long as the policy.
    Resident(Arc<CompiledPolicy>),
    /// In the disk cache; in memory while it is in use.
    Cached(Entry),
}

impl Code {
    /// Whether it can be had, as far as can be seen without loading it.
    pub fn is_available(&self) -> bool {
        match self {
            Code::Resident(_) => true,
            Code::Cached(entry) => entry.size().is_some(),
        }
    }
}

/// A component that is ready to be instantiated.
pub struct CompiledPolicy {
    /// The component with its imports.
    pub pre: InstancePre<State>,
    /// Where its functions are.
    pub exports: Exports,
    /// Its place in the disk cache.
    pub entry: Option<Entry>,
}

/// Where the functions of the interface are.
#[derive(Clone)]
pub struct Exports {
    /// `evaluation.evaluate`
    pub evaluate: ComponentExportIndex,
    /// `evaluation.explain`
    pub explain: ComponentExportIndex,
    /// `evaluation.describe`
    pub describe: ComponentExportIndex,
    /// `packed-rules.load-packed`, of the built-in evaluator.
    pub load_packed: Option<ComponentExportIndex>,
}

impl CompiledPolicy {
    /// Links a component.
    ///
    /// # Errors
    /// If its functions have other types than the interface says.
    pub fn new(
        linker: &Linker<State>,
        component: &Component,
        entry: Option<Entry>,
    ) -> wasmtime::Result<Self> {
        let pre = linker.instantiate_pre(component)?;
        PolicyPre::new(pre.clone())?;
        let exports = Exports::of(component)
            .ok_or_else(|| wasmtime::format_err!("{EVALUATION} is incomplete"))?;
        Ok(CompiledPolicy {
            pre,
            exports,
            entry,
        })
    }

    /// Its size, in KiB.
    pub fn kib(&self) -> u32 {
        let bytes = self.entry.as_ref().and_then(Entry::size);
        u32::try_from(bytes.unwrap_or(0) >> 10).unwrap_or(u32::MAX)
    }
}

impl Exports {
    fn of(component: &Component) -> Option<Self> {
        let evaluation = component.get_export_index(None, EVALUATION)?;
        let function = |name| component.get_export_index(Some(&evaluation), name);
        let rules = component.get_export_index(None, PACKED_RULES);
        Some(Exports {
            load_packed: rules
                .and_then(|rules| component.get_export_index(Some(&rules), "load-packed")),
            evaluate: function("evaluate")?,
            explain: function("explain")?,
            describe: function("describe")?,
        })
    }
}
