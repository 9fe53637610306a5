//! How many rounds the federated model takes to come near the pooled one. Trains nothing.

use serde::Serialize;

use super::outcome::Row;

/// So near is as good, in AUC over all answers.
const NEAR: f64 = 0.002;

/// The federated model beside the pooled one, by rounds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Rounds {
    pooled: f64,
    /// From this round on it is never more than .002 below, of those that were looked at.
    rounds_to_pooled: Option<u32>,
    /// The round that is nearest, and its AUC.
    nearest: (u32, f64),
    /// Rounds that were looked at.
    looked_at: usize,
}

impl Rounds {
    /// None where there is no AUC.
    pub(super) fn of(reached: &[(u32, Option<f64>)], pooled: Option<f64>) -> Option<Self> {
        let pooled = pooled?;
        let reached: Vec<(u32, f64)> =
            reached.iter().filter_map(|(round, auc)| Some((*round, (*auc)?))).collect();
        let apart = |auc: f64| (pooled - auc).max(0.0);
        let nearest =
            reached.iter().copied().min_by(|(_, a), (_, b)| apart(*a).total_cmp(&apart(*b)))?;
        let near = reached.iter().rev().take_while(|(_, auc)| apart(*auc) <= NEAR);
        let rounds_to_pooled = near.last().map(|(round, _)| *round);
        Some(Self { pooled, rounds_to_pooled, nearest, looked_at: reached.len() })
    }
}

/// For people; none where nothing was followed.
pub(super) fn text(rows: &[Row]) -> Option<String> {
    let line = |(set, of): (&str, &Rounds)| {
        let (round, auc) = of.nearest;
        let reached = match of.rounds_to_pooled {
            Some(rounds) => format!("from round {rounds} on"),
            None => "not for good".to_owned(),
        };
        let (pooled, looked_at) = (of.pooled, of.looked_at);
        format!(
            "  {set}: {reached}; nearest {auc:.4} at round {round}, pooled {pooled:.4} ({looked_at} rounds looked at)"
        )
    };
    let lines: Vec<String> = rows.iter().filter_map(Row::rounds).map(line).collect();
    (!lines.is_empty()).then(|| {
        format!("The federated model within {NEAR} of the pooled one:\n{}", lines.join("\n"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_from_when_it_stays_near() {
        let of = |aucs: &[f64]| {
            let reached: Vec<_> = (1..).zip(aucs.iter().map(|auc| Some(*auc))).collect();
            Rounds::of(&reached, Some(0.79)).unwrap()
        };
        // Near, away again, and near for good; above is near.
        assert_eq!(of(&[0.7, 0.789, 0.78, 0.789, 0.795]).rounds_to_pooled, Some(4));
        let never = of(&[0.7, 0.789, 0.78]);
        assert_eq!((never.rounds_to_pooled, never.nearest), (None, (2, 0.789)));
        assert_eq!(Rounds::of(&[(1, None)], Some(0.79)), None);
        assert_eq!(Rounds::of(&[(1, Some(0.7))], None), None);
    }
}
