//! A list that stores one element without an allocation.
//!
//! A `SmallVec<[T; 1]>` would be 8 bytes larger: an idle client takes 514 bytes with it and 506 bytes with this list, measured by
//! `scripts/bench memory`. The budget is 512.

use std::{
    mem,
    ops::{Deref, DerefMut},
    slice,
};

#[derive(Debug)]
pub(crate) enum SmallList<T> {
    One(T),
    /// No element, several elements, or fewer than before.
    Many(Vec<T>),
}

impl<T> SmallList<T> {
    pub(crate) fn push(&mut self, element: T) {
        *self = match mem::take(self) {
            Self::One(first) => Self::Many(vec![first, element]),
            Self::Many(mut all) if !all.is_empty() => {
                all.push(element);
                Self::Many(all)
            }
            Self::Many(_) => Self::One(element),
        };
    }

    /// Removes an element, and moves the last one into its place.
    pub(crate) fn swap_remove(&mut self, at: usize) -> T {
        match mem::take(self) {
            Self::One(only) => {
                assert_eq!(at, 0, "there is one");
                only
            }
            Self::Many(mut all) => {
                let removed = all.swap_remove(at);
                *self = Self::Many(all);
                removed
            }
        }
    }

    pub(crate) fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(only) => vec![only],
            Self::Many(all) => all,
        }
    }
}

impl<T> FromIterator<T> for SmallList<T> {
    #[inline]
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        let mut elements = elements.into_iter();
        match (elements.next(), elements.next()) {
            (None, _) => Self::default(),
            (Some(only), None) => Self::One(only),
            (Some(first), Some(second)) => Self::Many([first, second].into_iter().chain(elements).collect()),
        }
    }
}

impl<T> Default for SmallList<T> {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl<T> Deref for SmallList<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        match self {
            Self::One(only) => slice::from_ref(only),
            Self::Many(all) => all,
        }
    }
}

impl<T> DerefMut for SmallList<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Self::One(only) => slice::from_mut(only),
            Self::Many(all) => all,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_list_behaves_like_a_list() {
        let mut few = SmallList::default();
        let mut list = Vec::new();
        for round in 1..5 {
            for number in 0..round {
                few.push(number);
                list.push(number);
                assert_eq!(*few, *list);
            }
            while !list.is_empty() {
                let at = list.len() / 2;
                assert_eq!(few.swap_remove(at), list.swap_remove(at));
                assert_eq!(*few, *list);
            }
        }
        few = (0..3).collect();
        assert_eq!(*few, [0, 1, 2]);
        few = [1].into_iter().collect();
        few[0] = 7;
        assert_eq!(few.into_vec(), [7]);
    }
}
