//! What the standard library would bring for WebAssembly: memory, panics and a place for the policy.
//! All of the evaluator's unsafe code is here.

#![allow(unsafe_code)]

use alloc::alloc::{GlobalAlloc, Layout};
use alloc::vec::Vec;
use core::cell::{Cell, UnsafeCell};

// wasi-libc's allocator and memory functions; none of them imports anything.
#[link(name = "c")]
unsafe extern "C" {
    fn aligned_alloc(align: usize, size: usize) -> *mut u8;
    fn free(pointer: *mut u8);
}

/// Bytes for what a call allocates; more comes from the heap.
const ARENA: usize = 16 << 10;

/// Memory of one call. All of it is given back at once when the next call begins: most calls touch
/// little memory, always the same, and nothing is spent on keeping books of it.
#[repr(align(16))]
struct Arena {
    bytes: UnsafeCell<[u8; ARENA]>,
    used: Cell<usize>,
    stage: Cell<Stage>,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    /// What is allocated now may stay.
    Off,
    /// A call is under way.
    Call,
    /// It has its result, which the host may not have read yet.
    Done,
}

// SAFETY: a component has one thread.
unsafe impl Sync for Arena {}

static MEMORY: Arena = Arena {
    bytes: UnsafeCell::new([0; ARENA]),
    used: Cell::new(0),
    stage: Cell::new(Stage::Off),
};

impl Arena {
    fn start(&self) -> *mut u8 {
        self.bytes.get().cast()
    }

    fn holds(&self, pointer: *mut u8) -> bool {
        (pointer as usize).wrapping_sub(self.start() as usize) < ARENA
    }

    fn alloc(&self, layout: Layout) -> Option<*mut u8> {
        if self.stage.get() == Stage::Off {
            return None;
        }
        let at = self.used.get().next_multiple_of(layout.align().min(16));
        let end = at.checked_add(layout.size())?;
        if end > ARENA || layout.align() > 16 {
            return None;
        }
        self.used.set(end);
        // SAFETY: `at` is less than `ARENA`.
        Some(unsafe { self.start().add(at) })
    }

    /// Whether the allocation could be made longer where it is: the last one can.
    fn extend(&self, pointer: *mut u8, old: usize, new: usize) -> bool {
        let at = pointer as usize - self.start() as usize;
        let fits = at + old == self.used.get() && at + new <= ARENA;
        if fits {
            self.used.set(at + new);
        }
        fits
    }
}

/// A call begins: what the last one allocated is no longer needed. Called before the arguments come,
/// and by exports that have none in memory.
pub fn begin() {
    if MEMORY.stage.get() == Stage::Done {
        MEMORY.used.set(0);
        MEMORY.stage.set(Stage::Call);
    }
}

/// A call has its result.
pub fn done() {
    if MEMORY.stage.get() == Stage::Call {
        MEMORY.stage.set(Stage::Done);
    }
}

/// From here on, what is allocated stays.
pub fn keep() {
    MEMORY.stage.set(Stage::Off);
}

/// From here on, calls allocate for themselves only.
pub fn keep_no_more() {
    MEMORY.stage.set(Stage::Done);
}

/// What came as an argument, where it stays. To be called after [`keep`].
pub fn kept(bytes: Vec<u8>) -> Vec<u8> {
    if MEMORY.holds(bytes.as_ptr().cast_mut()) {
        return bytes.clone();
    }
    bytes
}

struct Allocator;

// SAFETY: the arena gives out each byte once a call; `aligned_alloc` gives memory of that size and
// alignment or null, and `free` takes back what it gave. A component has one thread.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if let Some(pointer) = MEMORY.alloc(layout) {
            return pointer;
        }
        // C asks for a multiple of the alignment (C11 §7.22.3.1).
        let size = layout.pad_to_align().size();
        unsafe { aligned_alloc(layout.align().max(size_of::<usize>()), size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, _: Layout) {
        if !MEMORY.holds(pointer) {
            unsafe { free(pointer) }
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if MEMORY.holds(pointer) && MEMORY.extend(pointer, layout.size(), new_size) {
            return pointer;
        }
        // SAFETY: the caller keeps to `realloc`'s contract, which is that of these.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(new_size, layout.align()));
            if !new.is_null() {
                new.copy_from_nonoverlapping(pointer, layout.size().min(new_size));
                self.dealloc(pointer, layout);
            }
            new
        }
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
            begin();
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
