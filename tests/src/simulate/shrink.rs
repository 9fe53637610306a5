//! Makes a failing list of operations shorter: chunks are left out, from halves down to single operations,
//! as long as what is left fails in the same way (Zeller and Hildebrandt 2002, delta debugging). Runs
//! nothing itself.

/// The most lists that are tried.
const TRIALS: usize = 400;

/// A list that still fails, and from which no single operation can be left out unless the trials ran out.
pub(super) fn shrink<T: Copy>(operations: &[T], mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut kept = operations.to_vec();
    let mut chunk = kept.len().div_ceil(2).max(1);
    let mut trials = 0;
    loop {
        let (mut start, mut shorter) = (0, false);
        while start < kept.len() && trials < TRIALS {
            let end = (start + chunk).min(kept.len());
            let rest = [&kept[..start], &kept[end..]].concat();
            trials += 1;
            if fails(&rest) {
                (kept, shorter) = (rest, true);
            } else {
                start = end;
            }
        }
        if trials >= TRIALS || (chunk == 1 && !shorter) {
            return kept;
        }
        if !shorter {
            chunk = (chunk / 2).max(1);
        }
        chunk = chunk.min(kept.len()).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_needed_to_fail_is_left() {
        let needed = [3, 17, 90];
        let fails = |list: &[u32]| needed.iter().all(|n| list.contains(n));
        let all: Vec<u32> = (0..200).collect();
        assert_eq!(shrink(&all, fails), needed);
        assert_eq!(shrink(&all, |_| true), [0; 0]);
        assert_eq!(shrink(&[] as &[u32], |_| true), [0; 0]);
    }
}
