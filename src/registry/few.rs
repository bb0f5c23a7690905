//! A list that mostly has one element, which it keeps without an allocation.

use std::{
    mem,
    ops::{Deref, DerefMut},
    slice,
};

#[derive(Debug)]
pub(super) enum Few<T> {
    One(T),
    /// None, or more than one, or less than there were.
    Many(Vec<T>),
}

impl<T> Few<T> {
    pub(super) fn push(&mut self, element: T) {
        *self = match mem::take(self) {
            Self::One(first) => Self::Many(vec![first, element]),
            Self::Many(mut all) if !all.is_empty() => {
                all.push(element);
                Self::Many(all)
            }
            Self::Many(_) => Self::One(element),
        };
    }

    /// Takes one out, and puts the last one into its place.
    pub(super) fn swap_remove(&mut self, at: usize) -> T {
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

    pub(super) fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(only) => vec![only],
            Self::Many(all) => all,
        }
    }
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        match self {
            Self::One(only) => slice::from_ref(only),
            Self::Many(all) => all,
        }
    }
}

impl<T> DerefMut for Few<T> {
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
    fn it_is_a_list() {
        let mut few = Few::default();
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
        few.push(1);
        few[0] = 7;
        assert_eq!(few.into_vec(), [7]);
    }
}
