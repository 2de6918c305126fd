//! Writes an initramfs: a cpio archive in the "newc" format (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).

/// A directory, for all to read.
const MODE_DIRECTORY: u32 = 0o040_755;
/// A character device, for root alone.
const MODE_DEVICE: u32 = 0o020_600;
/// A program.
const MODE_PROGRAM: u32 = 0o100_755;
/// Major and minor number of the system console (Linux, Documentation/admin-guide/devices.txt).
const CONSOLE: [u32; 2] = [5, 1];

/// Returns an archive of these files and the console device; the same files always make the same archive.
pub fn initramfs(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut archive = Vec::new();
    let mut add = |inode: u32, name: &str, mode: u32, device: [u32; 2], data: &[u8]| {
        // Inode, mode, user, group, links, time, size; the file's device; the device it is; bytes of its name; no checksum.
        let [major, minor] = device;
        let (size, name_size) = (data.len() as u32, name.len() as u32 + 1);
        let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0];
        archive.extend(b"070701");
        fields.iter().for_each(|field| archive.extend(format!("{field:08x}").bytes()));
        archive.extend(name.bytes());
        archive.push(0);
        pad(&mut archive);
        archive.extend(data);
        pad(&mut archive);
    };
    add(1, "dev", MODE_DIRECTORY, [0, 0], &[]);
    add(2, "dev/console", MODE_DEVICE, CONSOLE, &[]);
    for (inode, (name, data)) in (3..).zip(files) {
        add(inode, name, MODE_PROGRAM, [0, 0], data);
    }
    add(0, "TRAILER!!!", 0, [0, 0], &[]);
    archive
}

/// Names and data begin at multiples of 4 bytes.
fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an archive back as name, mode, device and data.
    fn read(mut archive: &[u8]) -> Vec<(String, u32, [u32; 2], Vec<u8>)> {
        let mut entries = Vec::new();
        let whole = archive.len();
        let aligned = |rest: &[u8]| (whole - rest.len()).next_multiple_of(4) - (whole - rest.len());
        while !archive.is_empty() {
            assert!(archive.starts_with(b"070701"));
            let field = |at: usize| {
                let digits = std::str::from_utf8(&archive[6 + 8 * at..14 + 8 * at]).unwrap();
                u32::from_str_radix(digits, 16).unwrap()
            };
            let (mode, size, device, name_size) = (field(1), field(6) as usize, [field(9), field(10)], field(11) as usize);
            let name = String::from_utf8(archive[110..110 + name_size - 1].to_vec()).unwrap();
            archive = &archive[110 + name_size..];
            archive = &archive[aligned(archive)..];
            entries.push((name, mode, device, archive[..size].to_vec()));
            archive = &archive[size..];
            archive = &archive[aligned(archive)..];
        }
        entries
    }

    #[test]
    fn what_was_put_in_is_in_the_archive() {
        let archive = initramfs(&[("init", b"12345".to_vec()), ("kvm.ko", vec![0; 8])]);
        let entries = read(&archive);
        let names: Vec<_> = entries.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["dev", "dev/console", "init", "kvm.ko", "TRAILER!!!"]);
        assert_eq!((entries[1].1, entries[1].2), (0o020_600, [5, 1]));
        assert_eq!((entries[2].1, &entries[2].3[..]), (0o100_755, &b"12345"[..]));
        assert_eq!(entries[3].3, [0; 8]);
    }

    #[test]
    fn headers_are_as_the_format_says() {
        let archive = initramfs(&[]);
        let dev = "070701\
            00000001000041ed000000000000000000000001000000000000000000000000000000000000000000000000\
            0000000400000000dev\0\0\0";
        assert_eq!(&archive[..dev.len()], dev.as_bytes());
        assert_eq!(archive.len() % 4, 0);
    }
}
