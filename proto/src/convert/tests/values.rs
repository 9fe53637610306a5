//! Strategies over domain values, wide enough to reach every field and every limit.

use std::collections::BTreeSet;

use bytes::Bytes;
use collegium_shared::{
    architecture::{
        Architecture, BiasQuestion, BiasScope, Hyper, KT_ATTENTION_1, LearnerPrivacy, Local,
        Mechanism, Optimizer, Second, Server, Stage, bias_audit::Measure,
    },
    clock::Timestamp,
    crypto::{AgreementKey, Digest, Signature, VerifyingKey},
    ids::{InstitutionId, RoundId, TaskId},
    params::Encoding,
    protocol::{
        Before, Certificate, Cohort, Deadlines, Decline, Ending, Inputs, LedgerHead, Outcome,
        Phase, Plan, Ready, RevealHeader, RoundView, ShareBody, ShareHeader, UploadHeader, Vote,
        pieces_digest,
    },
    roster::{Member, Registry, Roster},
    secagg::{Bitmap, SEALED_SHARE_LEN, ShareKind, SharePiece},
    signed::Signed,
};
use proptest::{
    collection::{btree_map, btree_set, vec},
    option,
    prelude::*,
    sample::select,
};

use super::super::{Documents, DownloadFrom, Instance, PollQuery, Polled, UploadPiece};

const NAME: &str = "[a-z0-9][a-z0-9._-]{0,63}";

pub(super) fn digest() -> impl Strategy<Value = Digest> + Clone {
    any::<[u8; 32]>().prop_map(Digest)
}

fn signature() -> impl Strategy<Value = Signature> {
    (any::<[u8; 32]>(), any::<[u8; 32]>()).prop_map(|(r, s)| {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&r);
        bytes[32..].copy_from_slice(&s);
        Signature(bytes)
    })
}

fn institution() -> impl Strategy<Value = InstitutionId> {
    NAME.prop_map(|name| name.parse().unwrap())
}

fn signed<T: std::fmt::Debug>(body: impl Strategy<Value = T>) -> impl Strategy<Value = Signed<T>> {
    (body, signature()).prop_map(|(body, signature)| Signed { body, signature })
}

pub(super) fn round_id() -> impl Strategy<Value = RoundId> {
    (NAME, any::<u32>(), any::<u32>()).prop_map(|(task, round, attempt)| {
        let task: TaskId = task.parse().unwrap();
        RoundId { task, round, attempt }
    })
}

pub(super) fn phase() -> impl Strategy<Value = Phase> {
    prop::sample::select(vec![
        Phase::Ready,
        Phase::Share,
        Phase::Upload,
        Phase::Vote,
        Phase::Reveal,
        Phase::Open,
        Phase::Ended,
    ])
}

pub(super) fn ready() -> impl Strategy<Value = Signed<Ready>> {
    let keys = (any::<[u8; 32]>(), any::<[u8; 32]>());
    let ledger = option::of((any::<u64>(), 0.0..1e6, 0.0..1e6));
    let body = (digest(), institution(), digest(), keys, digest(), ledger).prop_map(
        |(plan, institution, commitment, (mask, share), self_commitment, ledger)| Ready {
            plan,
            institution,
            commitment,
            mask_key: AgreementKey(mask),
            share_key: AgreementKey(share),
            self_commitment,
            ledger: ledger.map(|(entries, training, held_out)| LedgerHead {
                entries,
                training,
                held_out,
            }),
        },
    );
    signed(body)
}

pub(super) fn share_header() -> impl Strategy<Value = Signed<ShareHeader>> {
    let body = (digest(), digest(), institution(), digest(), digest()).prop_map(
        |(plan, list, institution, shares, sealed)| ShareHeader {
            plan,
            list,
            institution,
            shares,
            sealed,
        },
    );
    signed(body)
}

fn sealed() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), SEALED_SHARE_LEN)
}

pub(super) fn shares() -> impl Strategy<Value = (Signed<ShareHeader>, ShareBody)> {
    let body = vec((digest(), digest(), sealed()), 0..8).prop_map(|holders| ShareBody {
        leaves: holders.iter().flat_map(|(own, pair, _)| [*own, *pair]).collect(),
        sealed: holders.into_iter().map(|(_, _, sealed)| sealed).collect(),
    });
    (share_header(), body)
}

pub(super) fn upload_header() -> impl Strategy<Value = Signed<UploadHeader>> {
    let body = (digest(), institution(), digest())
        .prop_map(|(context, institution, upload)| UploadHeader { context, institution, upload });
    signed(body)
}

pub(super) fn outcome() -> impl Strategy<Value = Outcome> {
    let set = (1_usize..=256).prop_flat_map(|size| {
        vec(any::<bool>(), size).prop_map(move |bits| {
            let held = (0_u16..).zip(bits).filter(|(_, held)| *held);
            Bitmap::of(size, held.map(|(index, _)| index)).unwrap()
        })
    });
    prop_oneof![
        (digest(), set, digest()).prop_map(|(context, survivors, uploads)| Outcome::Survivors {
            context,
            survivors,
            uploads
        }),
        digest().prop_map(|context| Outcome::Abort { context }),
    ]
}

pub(super) fn vote() -> impl Strategy<Value = Signed<Vote>> {
    signed(
        (institution(), outcome()).prop_map(|(institution, outcome)| Vote { institution, outcome }),
    )
}

pub(super) fn decline() -> impl Strategy<Value = Signed<Decline>> {
    let body = (digest(), institution(), "[ -~]{0,300}");
    signed(body.prop_map(|(plan, institution, reason)| Decline { plan, institution, reason }))
}

pub(super) fn certificate() -> impl Strategy<Value = Certificate> {
    (outcome(), vec((institution(), signature()), 0..8))
        .prop_map(|(outcome, votes)| Certificate { outcome, votes })
}

pub(super) fn piece() -> impl Strategy<Value = SharePiece> {
    let kind = prop_oneof![Just(ShareKind::SelfMask), Just(ShareKind::PairMask)];
    (0_u16..256, kind, any::<[u8; 32]>(), any::<[u8; 32]>())
        .prop_map(|(dealer, kind, scalar, salt)| SharePiece { dealer, kind, scalar, salt })
}

pub(super) fn revealed() -> impl Strategy<Value = (Signed<RevealHeader>, Vec<SharePiece>)> {
    (digest(), institution(), signature(), vec(piece(), 0..8)).prop_map(
        |(context, institution, signature, pieces)| {
            let body = RevealHeader { context, institution, pieces: pieces_digest(&pieces) };
            (Signed { body, signature }, pieces)
        },
    )
}

pub(super) fn ending() -> impl Strategy<Value = Ending> {
    prop_oneof![
        digest().prop_map(|sum| Ending::Released { sum }),
        Just(Ending::Aborted),
        institution().prop_map(|dealer| Ending::Failed { dealer }),
        ".{0,200}".prop_map(|reason| Ending::Abandoned { reason }),
    ]
}

fn stage() -> impl Strategy<Value = Stage> {
    prop_oneof![
        Just(Stage::Support),
        Just(Stage::Statistics),
        Just(Stage::Totals),
        any::<u32>().prop_map(|step| Stage::Train { step }),
        Just(Stage::Evaluate),
        Just(Stage::Audit),
    ]
}

fn hyper() -> impl Strategy<Value = Hyper> {
    let rate = || 1e-6..1e2;
    let moments = (rate(), 0.0..1.0, 0.0..1.0, 1e-6..1.0);
    let server = prop_oneof![
        Just(Server::Average),
        (rate(), 0.0..1.0)
            .prop_map(|(learning_rate, momentum)| Server::Momentum { learning_rate, momentum }),
        (moments, 0..3).prop_map(|((learning_rate, momentum, decay, adaptivity), which)| {
            let second = match which {
                0 => Second::Adagrad,
                1 => Second::Adam { decay },
                _ => Second::Yogi { decay },
            };
            Server::Adaptive { second, learning_rate, momentum, adaptivity }
        }),
    ];
    let named = prop_oneof![
        Just((Local::Curvature, Server::Nesterov)),
        (rate(), server).prop_map(|(learning_rate, server)| {
            (Local::Gradient { learning_rate, proximal: 0.0 }, server)
        }),
        (rate(), rate()).prop_map(|(learning_rate, proximal)| {
            (Local::Gradient { learning_rate, proximal }, Server::Average)
        }),
    ];
    let optimizer = (named, 1_u32..1_000, 1e-6..1e3, 1e-6..1e6).prop_map(
        |((local, server), local_steps, bound, norm)| Optimizer {
            local,
            server,
            local_steps,
            bound,
            norm,
        },
    );
    let audit = option::of(audit().prop_map(Box::new));
    let evaluation = option::of(digest().prop_map(Box::new));
    (optimizer, 1e-9..1e6, 1e-9..1e6, option::of(privacy()), audit, evaluation).prop_map(
        |(optimizer, ridge_dense, ridge_skill, privacy, audit, evaluation)| Hyper {
            optimizer,
            ridge_dense,
            ridge_skill,
            privacy,
            audit,
            evaluation,
            features: Vec::new(),
        },
    )
}

fn audit() -> impl Strategy<Value = BiasQuestion> {
    let values = btree_set("[a-z]{1,8}", 1..4).prop_map(|all| all.into_iter().collect());
    let attributes = btree_map("[a-z]{1,8}", values, 1..4);
    let thresholds = btree_map(select(Measure::ALL.to_vec()), 1e-3..1.0, 0..4);
    let of = select(vec![None, Some(Architecture::lookup(KT_ATTENTION_1).unwrap())]);
    (digest(), attributes, 5_u32..100, thresholds, of).prop_map(
        |(model, attributes, smallest_cell, thresholds, of)| {
            let (smallest_part, band, exposure_learners) = (smallest_cell / 2, [0.5, 0.75], 50);
            let scope = BiasScope {
                attributes,
                smallest_cell,
                smallest_part,
                band,
                exposure_learners,
                thresholds,
                of,
            };
            BiasQuestion { model, scope }
        },
    )
}

fn privacy() -> impl Strategy<Value = LearnerPrivacy> {
    let mechanism =
        || (1e-3..4_096.0, 1e-3..1e6).prop_map(|(clip, noise)| Mechanism { clip, noise });
    let groups = (mechanism(), mechanism(), mechanism(), mechanism());
    (1_u16..=256, groups, 1e-6..100.0).prop_map(|(parties, groups, learning_rate)| {
        let (items, competencies, gradient, evaluation) = groups;
        LearnerPrivacy { parties, items, competencies, gradient, evaluation, learning_rate }
    })
}

fn encoding() -> impl Strategy<Value = Encoding> {
    let deviation = prop_oneof![Just(0.0), 1e-3..1e3];
    (vec((1_u32..10_000, 1e-6..1e6, deviation), 1..6), 1_u32..257).prop_map(|(segments, n_max)| {
        let named = (0..).zip(segments);
        let named = named.map(|(i, (len, bound, noise))| (format!("s{i}"), len, bound, noise));
        Encoding::noisy(named, n_max).unwrap()
    })
}

fn inputs() -> impl Strategy<Value = Inputs> {
    let one = || option::of(digest());
    (one(), one(), one(), one(), one()).prop_map(
        |(support, statistics, totals, start, candidate)| Inputs {
            support,
            statistics,
            totals,
            start,
            candidate,
        },
    )
}

fn time() -> impl Strategy<Value = Timestamp> {
    (0_i64..4_000_000_000_000).prop_map(Timestamp::from_millis)
}

/// Boxed: as a part of the strategies around it, it would fill their stack.
fn plan() -> BoxedStrategy<Plan> {
    let purpose = option::of("[a-z]{1,20}".prop_map(|name| name.parse().unwrap()));
    let group = option::of(vec("[a-z]{1,20}", 1..5).prop_map(|names| {
        names.into_iter().map(|name| name.parse().unwrap()).collect::<BTreeSet<_>>()
    }));
    let staged = (stage(), group);
    let what = (round_id(), option::of(digest()), staged, hyper(), (encoding(), purpose));
    let cohort =
        (any::<u16>(), any::<u16>()).prop_map(|(c_max, min_honest)| Cohort { c_max, min_honest });
    let deadlines = any::<[u32; 5]>().prop_map(|[ready, share, upload, vote, reveal]| Deadlines {
        ready,
        share,
        upload,
        vote,
        reveal,
    });
    let before = (round_id(), ending()).prop_map(|(round, ending)| Before { round, ending });
    let ended = (option::of(certificate()), option::of(before));
    let rest = (digest(), digest(), inputs(), ended, time());
    (what, cohort, deadlines, rest)
        .prop_map(|(what, cohort, deadlines, rest)| {
            let (round, layout, (stage, group), hyper, (encoding, purpose)) = what;
            let (roster, registry, inputs, (aborted, before), issued_at) = rest;
            Plan {
                round,
                architecture: "kt-logistic/1".into(),
                purpose,
                layout,
                stage,
                group,
                hyper,
                encoding,
                cohort,
                roster,
                registry,
                inputs,
                deadlines,
                aborted,
                before,
                issued_at,
            }
        })
        .boxed()
}

pub(super) fn view() -> impl Strategy<Value = RoundView> {
    let sets =
        (vec(ready(), 0..4), vec((share_header(), sealed()), 0..4), vec(upload_header(), 0..4));
    let ends = (option::of(outcome()), option::of(certificate()), option::of(ending()));
    (phase(), signed(plan()), sets, ends).prop_map(
        |(phase, plan, (list, headers, uploads), (proposal, certificate, ending))| RoundView {
            phase,
            plan,
            list,
            headers,
            proposal,
            uploads,
            certificate,
            ending,
        },
    )
}

pub(super) fn polled() -> impl Strategy<Value = Polled> {
    let notice = || option::of("[ -~]{1,80}");
    let digests = [(); 3].map(|()| option::of(digest()));
    let ledger = option::of(ready());
    let news = ("[0-9a-z]{1,64}", digests, option::of(view()), notice(), ledger).prop_map(
        |(cursor, [roster, release, authorities], round, notice, ledger)| Polled {
            release_signature: release.map(|digest| Signature([digest.0[0]; 64])),
            cursor,
            roster,
            release,
            round,
            notice,
            authorities,
            ledger,
        },
    );
    let unchanged = notice().prop_map(|notice| Polled { notice, ..Polled::default() });
    prop_oneof![1 => unchanged, 9 => news]
}

pub(super) fn query() -> impl Strategy<Value = PollQuery> {
    let instance = option::of(any::<[u8; 16]>().prop_map(Instance));
    ("[0-9a-z]{0,64}", option::of((round_id(), phase())), instance, any::<bool>())
        .prop_map(|(cursor, held, instance, away)| PollQuery { cursor, held, instance, away })
}

pub(super) fn upload_piece() -> impl Strategy<Value = UploadPiece> {
    let data = vec(any::<u8>(), 0..256).prop_map(Bytes::from);
    (option::of(round_id()), any::<u64>(), data, option::of(upload_header()))
        .prop_map(|(round, offset, data, header)| UploadPiece { round, offset, data, header })
}

pub(super) fn download_from() -> impl Strategy<Value = DownloadFrom> {
    (digest(), any::<u64>()).prop_map(|(digest, offset)| DownloadFrom { digest, offset })
}

fn member() -> impl Strategy<Value = Member> {
    (institution(), ".{0,40}", any::<[u8; 32]>(), time(), time()).prop_map(
        |(institution, legal_entity, identity, valid_from, valid_until)| Member {
            institution,
            legal_entity,
            identity: VerifyingKey(identity),
            valid_from,
            valid_until,
        },
    )
}

pub(super) fn documents() -> impl Strategy<Value = Documents> {
    let chain = (any::<u64>(), option::of(digest()), any::<[u8; 32]>());
    let roster = (chain, time(), time(), vec(member(), 0..4)).prop_map(
        |((version, previous, coordinator), issued_at, expires_at, members)| Roster {
            version,
            previous,
            coordinator: VerifyingKey(coordinator),
            issued_at,
            expires_at,
            members,
        },
    );
    let names = || btree_set(".{1,20}", 1..8);
    let registry = (any::<u64>(), names(), names())
        .prop_map(|(version, skills, items)| Registry::new(version, skills, items).unwrap());
    (option::of(signed(roster)), option::of(signed(registry)))
        .prop_map(|(roster, registry)| Documents { roster, registry })
}
