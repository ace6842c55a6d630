//! Sorting in little code: the standard library's sorts take more room in a policy than all that decides.

use core::cmp::Ordering;

/// Sorts in place, without keeping the order of equals: by insertion where there is little to sort, else by a heap.
pub fn sort_by<T>(items: &mut [T], compare: impl Fn(&T, &T) -> Ordering) {
    const FEW: usize = 16;
    let is_less = |a: &T, b: &T| compare(a, b) == Ordering::Less;
    if items.len() <= FEW {
        for end in 1..items.len() {
            let mut at = end;
            while at > 0 && is_less(&items[at], &items[at - 1]) {
                items.swap(at, at - 1);
                at -= 1;
            }
        }
        return;
    }
    for root in (0..items.len() / 2).rev() {
        sift_down(items, root, &is_less);
    }
    for end in (1..items.len()).rev() {
        items.swap(0, end);
        sift_down(&mut items[..end], 0, &is_less);
    }
}

/// Moves an item down a heap until none below it is greater.
fn sift_down<T>(items: &mut [T], mut root: usize, is_less: &impl Fn(&T, &T) -> bool) {
    loop {
        let mut child = 2 * root + 1;
        if child >= items.len() {
            return;
        }
        if child + 1 < items.len() && is_less(&items[child], &items[child + 1]) {
            child += 1;
        }
        if !is_less(&items[root], &items[child]) {
            return;
        }
        items.swap(root, child);
        root = child;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn what_is_sorted_is_in_order(mut items: alloc::vec::Vec<u16>) {
            let mut expected = items.clone();
            expected.sort_unstable();
            sort_by(&mut items, u16::cmp);
            proptest::prop_assert_eq!(items, expected);
        }
    }
}
