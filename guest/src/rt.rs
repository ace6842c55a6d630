//! What the standard library would bring for WebAssembly: memory, panics and a place for the policy.
//! All of the evaluator's unsafe code is here.

#![allow(unsafe_code)]

use alloc::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;

// wasi-libc's allocator and memory functions; none of them imports anything.
#[link(name = "c")]
unsafe extern "C" {
    fn aligned_alloc(align: usize, size: usize) -> *mut u8;
    fn free(pointer: *mut u8);
}

struct Allocator;

// SAFETY: `aligned_alloc` gives memory of that size and alignment or null, and `free` takes back
// what it gave. A component has one thread.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // C asks for a multiple of the alignment (C11 §7.22.3.1).
        let size = layout.pad_to_align().size();
        unsafe { aligned_alloc(layout.align().max(size_of::<usize>()), size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, _: Layout) {
        unsafe { free(pointer) }
    }
}

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    core::arch::wasm32::unreachable()
}

/// The canonical ABI's allocation function. `wit-bindgen` leaves it to the standard library on this
/// target.
///
/// # Safety
/// As the canonical ABI calls it: `old` is null with `old_size` 0, or was returned from here.
#[unsafe(no_mangle)]
unsafe extern "C" fn cabi_realloc(
    old: *mut u8,
    old_size: usize,
    align: usize,
    new_size: usize,
) -> *mut u8 {
    let pointer = unsafe {
        if old_size == 0 {
            if new_size == 0 {
                return align as *mut u8;
            }
            alloc::alloc::alloc(Layout::from_size_align_unchecked(new_size, align))
        } else {
            let layout = Layout::from_size_align_unchecked(old_size, align);
            alloc::alloc::realloc(old, layout, new_size)
        }
    };
    if pointer.is_null() {
        core::arch::wasm32::unreachable();
    }
    pointer
}

/// A static that is set before it is read.
pub struct Once<T>(UnsafeCell<Option<T>>);

// SAFETY: a component has one thread.
unsafe impl<T> Sync for Once<T> {}

impl<T> Once<T> {
    /// Not set yet.
    pub const fn new() -> Self {
        Once(UnsafeCell::new(None))
    }

    /// The value, if set.
    pub fn get(&self) -> Option<&T> {
        // SAFETY: `set` runs only in an export of its own, so no reference is held across it.
        unsafe { (*self.0.get()).as_ref() }
    }

    /// Sets the value.
    pub fn set(&self, value: T) {
        // SAFETY: as above.
        unsafe { *self.0.get() = Some(value) }
    }
}
