//! The functions of a guest's ELF file, by the address at which they run.

use hv_abi::boot::IMAGE_MIN_ADDRESS;
use object::{Object, ObjectKind, ObjectSegment, ObjectSymbol, SymbolKind};

/// The functions of a loaded ELF file.
#[derive(Default, Debug)]
pub struct Symbols {
    /// Ordered by start; none reaches into the next one.
    functions: Vec<Function>,
}

#[derive(PartialEq, Eq, Debug)]
struct Function {
    start: u64,
    end: u64,
    name: String,
}

impl Symbols {
    /// Reads an ELF file's symbols; a file that has none, or cannot be read, has no functions.
    pub fn read(elf: &[u8]) -> Self {
        let Ok(file) = object::File::parse(elf) else { return Self::default() };
        let bias = bias(&file);
        let functions = file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition());
        let functions = functions.filter_map(|symbol| {
            let name = format!("{:#}", rustc_demangle::demangle(symbol.name().ok()?));
            let start = symbol.address().wrapping_add(bias);
            // Assembly often does not tell the size: up to the next function then.
            let end = if symbol.size() == 0 { u64::MAX } else { start.saturating_add(symbol.size()) };
            Some(Function { start, end, name })
        });
        Self::new(functions.collect())
    }

    fn new(mut functions: Vec<Function>) -> Self {
        functions.sort_by(|a, b| (a.start, &a.name).cmp(&(b.start, &b.name)));
        functions.dedup_by_key(|function| function.start);
        for at in 1..functions.len() {
            functions[at - 1].end = functions[at - 1].end.min(functions[at].start);
        }
        Self { functions }
    }

    /// Returns the name of the function that an instruction belongs to.
    pub fn function(&self, rip: u64) -> Option<&str> {
        let behind = self.functions.partition_point(|function| function.start <= rip);
        let function = self.functions.get(behind.checked_sub(1)?)?;
        (rip < function.end).then_some(&function.name)
    }
}

/// What the loader adds to the file's addresses: a position-independent image begins at the lowest address that one may have.
pub(crate) fn bias(file: &object::File<'_>) -> u64 {
    if file.kind() != ObjectKind::Dynamic {
        return 0;
    }
    let lowest = file.segments().filter(|segment| segment.size() > 0).map(|segment| segment.address() & !0xfff).min();
    IMAGE_MIN_ADDRESS.wrapping_sub(lowest.unwrap_or(IMAGE_MIN_ADDRESS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_belong_to_the_function_around_them() {
        let function = |start, end, name: &str| Function { start, end, name: name.into() };
        let symbols = Symbols::new(vec![
            function(0x3000, u64::MAX, "unsized"),
            function(0x1000, 0x1010, "first"),
            function(0x1000, 0x1010, "first again"),
            function(0x2000, u64::MAX, "unsized too"),
        ]);
        let cases = [
            (0xfff, None),
            (0x1000, Some("first")),
            (0x100f, Some("first")),
            (0x1010, None),
            (0x2fff, Some("unsized too")),
            (u64::MAX - 1, Some("unsized")),
        ];
        for (rip, name) in cases {
            assert_eq!(symbols.function(rip), name, "{rip:#x}");
        }
    }

    #[test]
    fn what_is_no_elf_file_has_no_functions() {
        assert_eq!(Symbols::read(b"\x7fELF, but no more").function(0x1_0000), None);
        assert_eq!(Symbols::default().function(0), None);
    }
}
