//! From the kernel's first instruction to `main`.

use core::ffi::{CStr, c_char};

use crate::process::exit;

/// The command line after the program's name.
#[derive(Clone)]
pub struct Args {
    next: *const *const c_char,
}

impl Iterator for Args {
    type Item = &'static CStr;

    fn next(&mut self) -> Option<&'static CStr> {
        // SAFETY: `next` points into argv, at most at the null that ends it, beyond which it never moves.
        let text = unsafe { *self.next };
        if text.is_null() {
            return None;
        }
        // SAFETY: it pointed at an entry, so one further lies in argv, too.
        self.next = unsafe { self.next.add(1) };
        // SAFETY: the kernel ends each argument by a zero byte; they live as long as the process.
        Some(unsafe { CStr::from_ptr(text) })
    }
}

unsafe extern "Rust" {
    /// Defined by [`entry!`].
    safe fn holdfast_bare_main(args: Args) -> i32;
}

/// Names the function `fn(Args) -> i32` that the program starts with; what it returns is the exit code.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[unsafe(no_mangle)]
        fn holdfast_bare_main(args: $crate::start::Args) -> i32 {
            $main(args)
        }
    };
}

/// Called by `_start` with the stack as the kernel filled it: argc, argv, null, the environment, null, ...
pub(crate) extern "C" fn start(stack: *const usize) -> ! {
    // SAFETY: argv follows argc.
    let argv = unsafe { stack.add(1) }.cast::<*const c_char>();
    // SAFETY: with argc 0 (the kernel forbids it since 5.18) argv holds the null, which Args stops at.
    let has_name = unsafe { !(*argv).is_null() };
    // SAFETY: one past the name lies in argv.
    let next = if has_name { unsafe { argv.add(1) } } else { argv };
    exit(holdfast_bare_main(Args { next }))
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    const PANIC_EXIT_CODE: i32 = 134;
    exit(PANIC_EXIT_CODE)
}

/// Named by the unwind tables of core, which nobody reads: a panic ends the process.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
