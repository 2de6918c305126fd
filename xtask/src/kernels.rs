//! Builds the kernels of `tests/kernels`, which know nothing of hv, with GNU's compiler, assembler and linker.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::Command,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, bail};

use crate::{root, setup};

/// A kernel.
struct Kernel {
    name: &'static str,
    /// The linker script.
    script: &'static str,
    /// Sources, and options that only it has.
    words: &'static str,
    /// Sources behind them.
    sources: &'static str,
    form: Form,
}

/// What becomes of the ELF file that the linker makes.
#[derive(PartialEq, Eq)]
enum Form {
    Elf,
    /// The bytes that it loads.
    Bare,
}

const C: &str = "print.c traps.c apic.c kernel.c stubs.S";
const VCPU: &str = "print.c vcpu.c stubs.S";
const HOSTILE: &str = "print.c hostile.c stubs.S";
const SPACES: &str = "print.c spaces.c";
const MODES: &str = "print.c modes.c strings.c accesses.c modes.S";
const KERNELS: [Kernel; 16] = [
    Kernel { name: "pvh64", script: "kernel.ld", sources: C, words: "-m64 -mcmodel=small pvh64.S", form: Form::Elf },
    Kernel { name: "pvh32", script: "kernel.ld", sources: C, words: "-m32 pvh32.S", form: Form::Elf },
    Kernel { name: "multiboot", script: "kernel.ld", sources: C, words: "-m32 multiboot.S", form: Form::Elf },
    Kernel { name: "multiboot_flat", script: "kernel.ld", sources: C, words: "-m32 -DFLAT multiboot.S", form: Form::Bare },
    Kernel { name: "raw", script: "raw.ld", sources: "", words: "-m32 raw.S", form: Form::Bare },
    Kernel { name: "reset", script: "reset.ld", sources: "", words: "-m32 -DRESET raw.S", form: Form::Bare },
    Kernel { name: "tour", script: "reset.ld", sources: "", words: "-m64 tour.S", form: Form::Bare },
    Kernel { name: "begin", script: "reset.ld", sources: "", words: "-m32 begin.S", form: Form::Bare },
    Kernel { name: "random", script: "raw.ld", sources: "", words: "-m64 random.S", form: Form::Bare },
    Kernel { name: "vcpu64", script: "kernel.ld", sources: VCPU, words: "-m64 -mcmodel=small pvh64.S", form: Form::Elf },
    Kernel { name: "vcpu32", script: "kernel.ld", sources: VCPU, words: "-m32 pvh32.S", form: Form::Elf },
    Kernel { name: "spaces64", script: "kernel.ld", sources: SPACES, words: "-m64 -mcmodel=small pvh64.S", form: Form::Elf },
    Kernel { name: "spaces32", script: "kernel.ld", sources: SPACES, words: "-m32 pvh32.S", form: Form::Elf },
    Kernel { name: "modes", script: "kernel.ld", sources: MODES, words: "-m32 pvh32.S", form: Form::Elf },
    Kernel { name: "hostile64", script: "kernel.ld", sources: HOSTILE, words: "-m64 -mcmodel=small pvh64.S", form: Form::Elf },
    Kernel { name: "hostile32", script: "kernel.ld", sources: HOSTILE, words: "-m32 pvh32.S", form: Form::Elf },
];
/// Code that touches no vector registers and needs no library, linked at fixed addresses.
const FLAGS: &str = "-O2 -Wall -Wextra -Werror -ffreestanding -fno-pic -fno-pie -fno-stack-protector -fcf-protection=none \
     -fno-asynchronous-unwind-tables -mgeneral-regs-only -mno-red-zone -nostdlib -static \
     -Wl,--no-warn-rwx-segments,-zmax-page-size=4096,--build-id=none";

/// The names of the kernels that there are.
pub fn names() -> impl Iterator<Item = &'static str> {
    KERNELS.iter().map(|kernel| kernel.name)
}

/// Builds a kernel, if this process has not done so, and returns its image.
///
/// # Errors
/// There is none of that name, or no compiler, or it fails.
pub fn build(name: &str) -> Result<PathBuf> {
    static BUILT: Mutex<BTreeMap<&str, PathBuf>> = Mutex::new(BTreeMap::new());
    let Some(kernel) = KERNELS.iter().find(|kernel| kernel.name == name) else { bail!("no kernel is called {name}") };
    // A build that panicked left nothing half done.
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(image) = built.get(kernel.name) {
        return Ok(image.clone());
    }
    setup::ensure_compiler()?;
    let image = kernel.build()?;
    built.insert(kernel.name, image.clone());
    Ok(image)
}

impl Kernel {
    /// Compiles and links it, and returns its image.
    fn build(&self) -> Result<PathBuf> {
        let (sources, folder) = (root().join("tests/kernels"), root().join("target/kernels"));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        // Side by side with other builds of the same: a file of its own, moved to its place when it is done.
        let fresh = tempfile::tempdir_in(&folder).context("cannot make a temporary folder")?;
        let elf = fresh.path().join("image.elf");
        let mut gcc = Command::new("gcc");
        gcc.current_dir(&sources).args(FLAGS.split_whitespace()).args(self.words.split_whitespace());
        if self.script == "kernel.ld" {
            gcc.arg(format!("-DNAME=\"{}\"", self.name)).args(self.sources.split_whitespace());
        }
        run(gcc.args(["-T", self.script, "-o"]).arg(&elf), self.name)?;
        let image = match self.form {
            Form::Elf => elf,
            Form::Bare => {
                let bare = fresh.path().join("image.bin");
                run(Command::new("objcopy").args(["-O", "binary"]).arg(&elf).arg(&bare), self.name)?;
                bare
            }
        };
        let kept = folder.join(self.name);
        fs::rename(&image, &kept).with_context(|| format!("cannot move {}", kept.display()))?;
        Ok(kept)
    }
}

fn run(command: &mut Command, name: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if !status.success() {
        bail!("cannot build the kernel {name}: {status}");
    }
    Ok(())
}
