//! Lists out of a file that anybody may have written: never longer than the most that kleak writes, or a
//! few bytes of the file would take a multiple of them in memory.

use std::{fmt, marker::PhantomData, ops::Deref};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, SeqAccess, Visitor},
};

/// A list of at most `MOST`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub(super) struct Bounded<T, const MOST: usize>(pub(super) Vec<T>);

impl<T, const MOST: usize> Default for Bounded<T, MOST> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, const MOST: usize> Deref for Bounded<T, MOST> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T, const MOST: usize> FromIterator<T> for Bounded<T, MOST> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self(items.into_iter().collect())
    }
}

impl<T, const MOST: usize> From<Vec<T>> for Bounded<T, MOST> {
    fn from(items: Vec<T>) -> Self {
        Self(items)
    }
}

impl<T, const MOST: usize> From<Bounded<T, MOST>> for Vec<T> {
    fn from(items: Bounded<T, MOST>) -> Self {
        items.0
    }
}

impl<T, const MOST: usize> Bounded<T, MOST> {
    /// Whether a reader would take it.
    pub(super) fn fits(&self) -> bool {
        self.0.len() <= MOST
    }
}

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for Bounded<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T, const MOST: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for List<T, MOST> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MOST}")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    if items.len() >= MOST {
                        return Err(de::Error::custom(format_args!("a list of more than {MOST}")));
                    }
                    items.push(item);
                }
                Ok(items)
            }
        }

        deserializer.deserialize_seq(List::<T, MOST>(PhantomData)).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::Bounded;

    #[test]
    fn a_list_that_is_too_long_is_an_error() {
        type Two = Bounded<u8, 2>;
        assert_eq!(serde_json::from_str::<Two>("[1,2]").unwrap().0, [1, 2]);
        assert!(serde_json::from_str::<Two>("[1,2,3]").unwrap_err().to_string().contains("more"));
        assert!(serde_json::from_str::<Two>("[1,\"2\"]").is_err());
        assert!(Bounded::<u8, 1>(vec![1]).fits() && !Bounded::<u8, 1>(vec![1, 2]).fits());
    }
}
