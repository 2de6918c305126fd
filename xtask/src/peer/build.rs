//! Makes what is booted out of `tests/peer` and the kernel's package. It takes a second, so it is done each time.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::cpio;
use crate::root;

/// Code for the bare machine: no library, no start-up code, nothing but general registers.
const BARE_FLAGS: &str = "-O2 -Wall -Wextra -ffreestanding -fno-builtin -fno-stack-protector -fno-pic -fno-pie -mno-red-zone \
                          -mgeneral-regs-only -fcf-protection=none -fno-asynchronous-unwind-tables";
/// The modules that KVM consists of, in the order in which they are loaded; where in the kernel's folder they lie.
const MODULES: [(&str, &str); 3] =
    [("irqbypass.ko", "kernel/virt/lib"), ("kvm.ko", "kernel/arch/x86/kvm"), ("kvm-amd.ko", "kernel/arch/x86/kvm")];

/// What is booted.
pub struct Images {
    /// The bare floor, an ELF file with a PVH entry.
    pub floor: PathBuf,
    /// Linux.
    pub kernel: PathBuf,
    /// The benchmarks, the guest and the modules that Linux boots with.
    pub initrd: PathBuf,
}

/// Builds everything into `folder`; the kernel's package lies unpacked in `package`.
///
/// # Errors
/// A compiler fails, or the package does not hold what a kernel's package does.
pub fn build(folder: &Path, package: &Path) -> Result<Images> {
    let sources = root().join("tests/peer");
    // Words that begin with @ are files of ours.
    let run = |words: &str| {
        let word = |word: &str| word.strip_prefix('@').map_or_else(|| word.into(), |source| sources.join(source));
        let words: Vec<PathBuf> = words.split_whitespace().map(word).collect();
        let status =
            Command::new(&words[0]).args(&words[1..]).current_dir(folder).stdout(Stdio::from(std::io::stderr())).status();
        match status.with_context(|| format!("cannot run {}", words[0].display()))? {
            status if status.success() => Ok(()),
            status => bail!("cannot build the peer: {} ended with {status}", words[0].display()),
        }
    };
    run("gcc -c @guest.S -o guest.o")?;
    run("ld -T @guest.ld -o guest.elf guest.o")?;
    run("objcopy -O binary guest.elf guest.bin")?;
    // The guest is part of the program: .incbin finds it by -I.
    run("gcc -O2 -Wall -Wextra -static -I. -o kvmbench @kvmbench.c")?;
    run(&format!("gcc {BARE_FLAGS} -c @bare.c -o bare.o"))?;
    run("ld -static -nostdlib -no-pie -z max-page-size=4096 --no-warn-rwx-segments -T @bare.ld -o bare.elf bare.o")?;

    let mut files = vec![("init", read(&folder.join("kvmbench"))?)];
    let modules = only_entry(&modules_folder(package), "")?;
    for (name, inner) in MODULES {
        if let Some(bytes) = module(&modules.join(inner).join(name))? {
            files.push((name, bytes));
        }
    }
    let initrd = folder.join("initrd.cpio");
    fs::write(&initrd, cpio::initramfs(&files)).with_context(|| format!("cannot write {}", initrd.display()))?;
    Ok(Images { floor: folder.join("bare.elf"), kernel: only_entry(&package.join("boot"), "vmlinuz-")?, initrd })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Where a package has its modules: under /usr from Debian 13 on.
fn modules_folder(package: &Path) -> PathBuf {
    let (older, newer) = (package.join("lib/modules"), package.join("usr/lib/modules"));
    if older.is_dir() { older } else { newer }
}

/// Reads a module; one that is not there is part of the kernel. From Debian 13 on, modules are packed.
fn module(path: &Path) -> Result<Option<Vec<u8>>> {
    let packed = path.with_added_extension("xz");
    if path.is_file() {
        read(path).map(Some)
    } else if packed.is_file() {
        let xz = Command::new("xz")
            .args(["--decompress", "--stdout"])
            .arg(&packed)
            .output()
            .context("cannot run xz (package xz-utils)")?;
        if !xz.status.success() {
            bail!("xz cannot unpack {}", packed.display());
        }
        Ok(Some(xz.stdout))
    } else {
        Ok(None)
    }
}

/// The entry of a folder that begins so.
fn only_entry(folder: &Path, begin: &str) -> Result<PathBuf> {
    let cannot_read = || format!("cannot read {}", folder.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(cannot_read)? {
        let entry = entry.with_context(cannot_read)?;
        if entry.file_name().to_string_lossy().starts_with(begin) {
            found.push(entry.path());
        }
    }
    match <[PathBuf; 1]>::try_from(found) {
        Ok([path]) => Ok(path),
        Err(found) => bail!("{} has {} entries like '{begin}*', not one", folder.display(), found.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_read_packed_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kvm.ko");
        assert_eq!(module(&path).unwrap(), None);
        fs::write(folder.path().join("kvm.ko.xz"), b"no xz").unwrap();
        assert!(module(&path).is_err());
        fs::write(&path, b"plain").unwrap();
        assert_eq!(module(&path).unwrap().unwrap(), b"plain");
    }

    #[test]
    fn modules_lie_in_one_of_two_folders() {
        let package = tempfile::tempdir().unwrap();
        assert_eq!(modules_folder(package.path()), package.path().join("usr/lib/modules"));
        fs::create_dir_all(package.path().join("lib/modules")).unwrap();
        assert_eq!(modules_folder(package.path()), package.path().join("lib/modules"));
    }

    #[test]
    fn only_one_entry_may_fit() {
        let folder = tempfile::tempdir().unwrap();
        let only = |begin| only_entry(folder.path(), begin).ok();
        assert_eq!(only("vmlinuz-"), None);
        fs::write(folder.path().join("vmlinuz-1"), b"").unwrap();
        fs::write(folder.path().join("config-1"), b"").unwrap();
        assert_eq!(only("vmlinuz-"), Some(folder.path().join("vmlinuz-1")));
        assert_eq!(only(""), None);
    }
}
