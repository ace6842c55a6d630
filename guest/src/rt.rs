//! What the standard library would bring for WebAssembly: memory, panics and a place for the policy.
//! The evaluator's unsafe code is here, and in the exports (`component.rs`).

#![allow(unsafe_code)]

use alloc::alloc::{GlobalAlloc, Layout};
#[cfg(not(feature = "document"))]
use alloc::vec::Vec;
use core::cell::{Cell, UnsafeCell};

// wasi-libc's memory functions; none of them imports anything.
#[link(name = "c")]
unsafe extern "C" {}

/// Bytes for what a call allocates, as long as that is little; more comes from the heap.
const ARENA: usize = 16 << 10;

/// Memory of one call. All of it is wiped and given back at once when the next call begins: nothing of a call is left for
/// the next, most calls touch little memory, always the same, and nothing is spent on keeping books of it.
#[repr(align(16))]
struct Arena {
    bytes: UnsafeCell<[u8; ARENA]>,
    used: Cell<usize>,
    stage: Cell<Stage>,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    /// A call has its result, which the host may not have read yet. The first, so that the arena is all zeros: those
    /// take no room in the component.
    Done,
    /// A call is under way.
    Call,
    /// What is allocated now may stay.
    Off,
}

// SAFETY: a component has one thread.
unsafe impl Sync for Arena {}

static MEMORY: Arena = Arena {
    bytes: UnsafeCell::new([0; ARENA]),
    used: Cell::new(0),
    // The arguments of the first call come before anything is to stay.
    stage: Cell::new(Stage::Done),
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
            // What is made shorter is wiped whole.
            self.used.set(self.used.get().max(at + new));
        }
        fits
    }
}

/// A call begins: what the last one allocated is wiped. Called before the arguments come, and by exports that have none
/// in memory. What `load` allocates may stay: it comes before all that is the call's.
pub fn begin(load: impl FnOnce()) {
    if MEMORY.stage.get() == Stage::Done {
        // SAFETY: of what was allocated nothing is used any more, and it has been initialized.
        unsafe { MEMORY.start().write_bytes(0, MEMORY.used.get()) };
        MEMORY.used.set(0);
        heap::begin();
        load();
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
    heap::stays();
}

/// What came as an argument, where it stays. To be called after [`keep`].
#[cfg(not(feature = "document"))]
pub fn kept(bytes: Vec<u8>) -> Vec<u8> {
    if MEMORY.holds(bytes.as_ptr().cast_mut()) {
        return bytes.clone();
    }
    bytes
}

/// The heap of an evaluator that reads documents: wasi-libc's, which imports nothing.
#[cfg(feature = "document")]
mod heap {
    use alloc::alloc::Layout;

    unsafe extern "C" {
        fn aligned_alloc(align: usize, size: usize) -> *mut u8;
        fn free(pointer: *mut u8);
    }

    pub const TAKES_BACK: bool = true;

    pub fn begin() {}

    pub fn stays() {}

    pub fn alloc(layout: Layout) -> *mut u8 {
        // C asks for a multiple of the alignment (C11 section 7.22.3.1).
        let size = layout.pad_to_align().size();
        // SAFETY: any size and any power of two as alignment are allowed.
        unsafe { aligned_alloc(layout.align().max(size_of::<usize>()), size) }
    }

    /// # Safety
    /// The pointer came from [`alloc`].
    pub unsafe fn dealloc(pointer: *mut u8) {
        unsafe { free(pointer) }
    }
}

/// The heap of a policy that has its rules: a call needs it only for what does not fit into the arena, and nothing of it
/// when the next one begins. So it only grows, and begins anew with each call, all zeros.
#[cfg(not(feature = "document"))]
mod heap {
    use alloc::alloc::Layout;
    use core::arch::wasm32::{memory_grow, memory_size};
    use core::cell::Cell;

    pub const TAKES_BACK: bool = false;

    const PAGE: usize = 64 << 10;

    unsafe extern "C" {
        /// The end of the stack and of all statics. The linker defines it.
        static __heap_base: u8;
    }

    struct Heap {
        /// The first byte of the heap that calls may use; 0 before there is any.
        start: Cell<usize>,
        /// The first byte that is not used.
        next: Cell<usize>,
    }

    // SAFETY: a component has one thread.
    unsafe impl Sync for Heap {}

    static HEAP: Heap = Heap {
        start: Cell::new(0),
        next: Cell::new(0),
    };

    pub fn begin() {
        let start = HEAP.start.get();
        // SAFETY: it is between the two, and nothing of it is used any more.
        unsafe { (start as *mut u8).write_bytes(0, HEAP.next.get() - start) };
        HEAP.next.set(start);
    }

    pub fn stays() {
        HEAP.start.set(HEAP.next.get());
    }

    pub fn alloc(layout: Layout) -> *mut u8 {
        if HEAP.start.get() == 0 {
            let start = match super::embedded_rules() {
                // They are behind all that is there.
                Some(_) => memory_size::<0>() * PAGE,
                // The build script has the memory begin with some room for them.
                None => &raw const __heap_base as usize,
            };
            HEAP.start.set(start);
            HEAP.next.set(start);
        }
        let at = HEAP.next.get().next_multiple_of(layout.align());
        let Some(end) = at.checked_add(layout.size()) else {
            return core::ptr::null_mut();
        };
        let memory = memory_size::<0>() * PAGE;
        if end > memory && memory_grow::<0>((end - memory).div_ceil(PAGE)) == usize::MAX {
            return core::ptr::null_mut();
        }
        HEAP.next.set(end);
        at as *mut u8
    }

    /// # Safety
    /// None: nothing is given back.
    pub unsafe fn dealloc(_: *mut u8) {}
}

struct Allocator;

// SAFETY: the arena gives out each byte once a call, and so does the heap, or takes back what it gave. A component has
// one thread.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        MEMORY.alloc(layout).unwrap_or_else(|| heap::alloc(layout))
    }

    #[inline(always)]
    unsafe fn dealloc(&self, pointer: *mut u8, _: Layout) {
        if heap::TAKES_BACK && !MEMORY.holds(pointer) {
            unsafe { heap::dealloc(pointer) }
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

/// Memory for arguments, by the canonical ABI.
///
/// # Safety
/// As the canonical ABI asks for it: `old` is null with `old_size` 0, or was returned from here.
pub unsafe fn reallocated(old: *mut u8, old_size: usize, align: usize, new_size: usize) -> *mut u8 {
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
        // SAFETY: `set` runs only before a call, or in an export of its own: no reference is held across it.
        unsafe { (*self.0.get()).as_ref() }
    }

    /// Sets the value.
    pub fn set(&self, value: T) {
        // SAFETY: as above.
        unsafe { *self.0.get() = Some(value) }
    }
}

/// Where a host finds the rules of a finished policy, and what it puts there: `portcullis build` writes the place and
/// the length of the rules behind the mark, into the component itself.
#[cfg(not(feature = "document"))]
#[repr(C)]
struct Embedded {
    mark: [u8; 16],
    start: u32,
    length: u32,
}

#[cfg(not(feature = "document"))]
#[used]
static EMBEDDED: Embedded = Embedded {
    mark: *b"portcullis rules",
    start: 0,
    length: 0,
};

/// The rules that stand in the component itself, if it is a finished policy.
#[cfg(not(feature = "document"))]
pub fn embedded_rules() -> Option<&'static [u8]> {
    // What stands there was written after this was compiled.
    // SAFETY: a reference to a static can be read.
    let embedded = unsafe { core::ptr::read_volatile(&raw const EMBEDDED) };
    if embedded.length == 0 {
        return None;
    }
    let start = embedded.start as usize as *const u8;
    // SAFETY: whoever has written the place has put the rules there, behind all that this program uses of its memory.
    Some(unsafe { core::slice::from_raw_parts(start, embedded.length as usize) })
}
