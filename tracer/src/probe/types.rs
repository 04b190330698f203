//! Struct offsets and function prototypes from the running kernel's own BTF: what a field's place
//! is on this kernel is never guessed from a version number.

use std::path::Path;

use btf::btf::{Btf, FlattenedType, Type};

/// The kernel's types.
pub(super) struct KernelTypes(Btf);

impl KernelTypes {
    /// Parses `/sys/kernel/btf/vmlinux` or a copy of it; `None` when there is none.
    ///
    /// Takes some 85 MB while the result lives (6.18), so it is dropped as soon as the offsets are
    /// known.
    pub(super) fn open(path: &Path) -> Option<Self> {
        Btf::from_file(path).ok().map(Self)
    }

    /// Offset in bytes of a field, looking into anonymous structs and unions.
    pub(super) fn offset(&self, structure: &str, field: &str) -> Option<u32> {
        // Bit fields have no byte of their own.
        let bits = self.member(self.structure(structure)?, field, 0)?;
        (bits % 8 == 0).then_some(bits / 8)
    }

    /// Value of an enumerator, wherever it is defined.
    pub(super) fn enumerator(&self, name: &str) -> Option<i64> {
        self.0.get_types().iter().find_map(|kind| {
            let (Type::Enum32(list) | Type::Enum64(list)) = &kind.base_type else { return None };
            let found = list.entries.iter().find(|entry| entry.name.as_deref() == Some(name));
            found.map(|entry| entry.value)
        })
    }

    /// Size in bytes of a struct or union.
    pub(super) fn size(&self, name: &str) -> Option<u64> {
        let id = self.structure(name)?.type_id;
        self.0.get_type_by_id(id).ok().map(|kind| u64::from(kind.bits / 8))
    }

    /// For each argument of a tracepoint, the struct it points to (`""` for anything else); `None`
    /// when the kernel has no such tracepoint.
    pub(super) fn tracepoint(&self, name: &str) -> Option<Vec<String>> {
        let wanted = format!("btf_trace_{name}");
        let prototype = self.0.get_types().iter().find_map(|kind| match &kind.base_type {
            Type::FunctionProto(proto) if kind.name.as_deref() == Some(&wanted) => Some(proto),
            _ => None,
        })?;
        // The first parameter is the probe's private pointer.
        Some(prototype.params.iter().skip(1).map(|param| self.pointee(param.type_id)).collect())
    }

    fn pointee(&self, id: u32) -> String {
        match self.0.get_type_by_id(id) {
            Ok(kind) if kind.num_refs == 1 => self.base_name(kind).unwrap_or_default(),
            _ => String::new(),
        }
    }

    /// The crate gives a pointer no name of what it points to: find the struct with its members.
    fn base_name(&self, pointer: &FlattenedType) -> Option<String> {
        let Type::Struct(wanted) = &pointer.base_type else { return None };
        let first = wanted.members.first()?;
        self.0.get_types().iter().find_map(|kind| match &kind.base_type {
            Type::Struct(found)
                if kind.num_refs == 0
                    && kind.name.is_some()
                    && found.members.len() == wanted.members.len()
                    && found.members.first().map(|m| (&m.name, m.type_id))
                        == Some((&first.name, first.type_id)) =>
            {
                kind.name.clone()
            }
            _ => None,
        })
    }

    /// A struct by name: not a forward declaration, and not a pointer to it.
    fn structure(&self, name: &str) -> Option<&FlattenedType> {
        self.0.get_types().iter().find(|kind| {
            kind.num_refs == 0
                && kind.name.as_deref() == Some(name)
                && matches!(&kind.base_type, Type::Struct(body) if !body.members.is_empty())
        })
    }

    /// Offset in bits.
    fn member(&self, structure: &FlattenedType, field: &str, depth: u8) -> Option<u32> {
        // The kernel nests anonymous unions three deep; a broken BTF could nest for ever.
        if depth > 8 {
            return None;
        }
        let (Type::Struct(body) | Type::Union(body)) = &structure.base_type else { return None };
        body.members.iter().find_map(|member| match member.name.as_deref() {
            Some(name) if name == field => Some(member.offset),
            None | Some("") => {
                let inner = self.0.get_type_by_id(member.type_id).ok()?;
                if inner.num_refs > 0 {
                    return None;
                }
                self.member(inner, field, depth + 1).map(|offset| member.offset + offset)
            }
            Some(_) => None,
        })
    }
}
