//! Names of functions, without what compilers and the kernel's build add to them.

/// `name` without what tells copies of a function apart, and no change of its code: the compiler's
/// `.isra.0`, `.constprop.1`, `.part.2`, `.cold` and `.llvm.123`, and `_noprof`, which the allocation
/// functions have from 6.10 on (`include/linux/alloc_tag.h`).
pub(super) fn plain(name: &str) -> &str {
    let mut name = name;
    while let Some((before, after)) = name.rsplit_once('.') {
        // GCC numbers its copies after the word, clang's ThinLTO names a hash.
        let number = !after.is_empty() && after.bytes().all(|byte| byte.is_ascii_digit());
        let word = matches!(after, "isra" | "constprop" | "part" | "cold" | "llvm");
        if before.is_empty() || !(number || word) {
            break;
        }
        name = before;
    }
    name.strip_suffix("_noprof").filter(|rest| !rest.is_empty()).unwrap_or(name)
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
            ("a.llvm.8210938", "a"),
            ("a.part.3", "a"),
            ("main.main", "main.main"),
            ("os.(*File).Open", "os.(*File).Open"),
            ("_noprof", "_noprof"),
            (".cold", ".cold"),
            ("", ""),
        ] {
            assert_eq!(plain(name), expected, "{name}");
        }
    }

    proptest! {
        #[test]
        fn it_is_done_once_and_for_all(name in "[a-z_.0-9]{0,20}|\\PC{0,8}") {
            let once = plain(&name);
            prop_assert!(name.starts_with(once));
            prop_assert!(once.is_empty() == name.is_empty());
        }
    }
}
