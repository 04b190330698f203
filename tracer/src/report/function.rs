//! Names of functions, without what compilers and the kernel's build add to them.

use std::borrow::Cow;

/// What a number stands for that has no name: it is another in each boot.
const UNNAMED: &str = "[unnamed]";

/// What a function is called in every run and build. A module's keeps its module: `f.isra.0 [nf_tables]` is
/// `f [nf_tables]`.
#[must_use]
pub fn plain(name: &str) -> Cow<'_, str> {
    if name.starts_with("0x") {
        return Cow::Borrowed(UNNAMED);
    }
    match name.split_once(" [") {
        Some((function, module)) if strip(function) != function => {
            Cow::Owned(format!("{} [{module}", strip(function)))
        }
        Some(_) => Cow::Borrowed(name),
        None => Cow::Borrowed(strip(name)),
    }
}

/// `name` without what tells copies of a function apart, and no change of its code: the compiler's
/// `.isra.0`, `.constprop.1`, `.part.2`, `.cold` and `.llvm.123`, and `_noprof`, which the allocation
/// functions have from 6.10 on (`include/linux/alloc_tag.h`).
fn strip(mut name: &str) -> &str {
    loop {
        let numbered = name.rsplit_once('.').and_then(|(rest, number)| {
            let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            let kinds = [".isra", ".constprop", ".part", ".llvm", ".cold"];
            let kind = kinds.iter().find_map(|kind| rest.strip_suffix(kind));
            kind.filter(|_| is_number)
        });
        let shorter = numbered
            .or_else(|| name.strip_suffix(".cold"))
            .or_else(|| name.strip_suffix("_noprof"))
            .filter(|shorter| !shorter.is_empty());
        match shorter {
            Some(shorter) => name = shorter,
            None => return name,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::plain;

    #[test]
    fn what_builds_add_is_taken_off() {
        for (name, expected) in [
            ("load_msg", "load_msg"),
            ("__kmalloc_noprof", "__kmalloc"),
            ("kmem_cache_alloc_noprof.isra.0", "kmem_cache_alloc"),
            ("do_msgsnd.constprop.0", "do_msgsnd"),
            ("a.isra.0.constprop.1.cold", "a"),
            ("a.part.0.cold", "a"),
            ("a.cold.3", "a"),
            ("a.llvm.8210938", "a"),
            ("kvmalloc_node_noprof.llvm.1234", "kvmalloc_node"),
            ("nf_alloc.isra.0 [nf_conntrack]", "nf_alloc [nf_conntrack]"),
            ("nf_alloc [nf_conntrack]", "nf_alloc [nf_conntrack]"),
            ("main.main", "main.main"),
            ("os.(*File).Open", "os.(*File).Open"),
            ("0xffffffff81000000", "[unnamed]"),
            ("_noprof", "_noprof"),
            (".cold", ".cold"),
            (".isra.0", ".isra.0"),
            ("", ""),
        ] {
            assert_eq!(plain(name), expected, "{name}");
        }
    }

    proptest! {
        #[test]
        fn it_is_done_once_and_for_all(name in "[a-z_.0-9]{0,20}( \\[[a-z]{1,4}\\])?|\\PC{0,8}") {
            let once = plain(&name).into_owned();
            prop_assert_eq!(&plain(&once), &once);
            prop_assert_eq!(once.is_empty(), name.is_empty());
        }
    }
}
