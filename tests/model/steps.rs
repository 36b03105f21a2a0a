//! The steps of a case and the queue it runs on, and how both are made up. Nothing here knows what a step must lead to.

use super::{GRANULE, HOME_LIMIT, KINDS, NAMES, SEATS};
use proptest::prelude::*;
use syncq::{Role, Start};

/// The queue that a case runs on.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    pub(super) backing: Backing,
    /// 4096 << this.
    pub(super) doublings: u32,
    pub(super) slots: u32,
    pub(super) start: u64,
    pub(super) is_lossy: bool,
    pub(super) is_single_writer: bool,
    pub(super) has_timestamps: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Backing {
    Heap,
    Anonymous,
    Named,
    File,
}

/// How long a body is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Len {
    Bytes(usize),
    /// This many 256ths of the capacity.
    Share(u8),
    /// The longest that can ever fit, and this much more.
    Longest(i8),
    /// As long as there is room for right now, and this much more.
    Room(i8),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum ScreenChange {
    AddSender(usize),
    RemoveSender(usize),
    AddKind(usize),
    RemoveKind(usize),
    HearOwn(bool),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Finish {
    Commit,
    /// This many 256ths of what was reserved.
    CommitFirst(u8),
    Abort,
}

/// One step. `who` is a seat: the step is for the first from there on who can do it.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// `None`: as an observer. On the first free seat from `who` on.
    Join {
        who: usize,
        role: Option<Role>,
        name: usize,
        start: Start,
        hears_own: bool,
    },
    Leave {
        who: usize,
    },
    Append {
        who: usize,
        kind: usize,
        len: Len,
    },
    AppendAll {
        who: usize,
        messages: Vec<(usize, Len)>,
    },
    KindTooLong {
        who: usize,
    },
    Reserve {
        who: usize,
        kind: usize,
        len: Len,
    },
    Finish {
        who: usize,
        how: Finish,
    },
    Pop {
        who: usize,
    },
    PopInto {
        who: usize,
    },
    Peek {
        who: usize,
        keeps: bool,
        is_evicted_meanwhile: bool,
    },
    Drain {
        who: usize,
    },
    ChangeScreen {
        who: usize,
        change: ScreenChange,
    },
    LimitHome {
        who: usize,
        bytes: u64,
    },
    Evict {
        who: usize,
    },
    EvictSomebodyGone,
}

pub(super) fn settings() -> impl Strategy<Value = Setting> {
    let backing = prop_oneof![
        12 => Just(Backing::Heap),
        1 => Just(Backing::Anonymous),
        1 => Just(Backing::Named),
        1 => Just(Backing::File),
    ];
    let near = |end: u64| (0..64u64).prop_map(move |granules| end.wrapping_sub(granules * GRANULE));
    // The claim word holds the position up to 2^43, and the position itself ends at 2^64.
    let start = prop_oneof![3 => Just(0), 1 => near(1 << 43), 2 => near(0)];
    (
        backing,
        prop_oneof![4 => Just(0u32), 1 => Just(1), 1 => Just(2)],
        2..8u32,
        start,
        prop::bool::weighted(0.35),
        prop::bool::weighted(0.1),
        any::<bool>(),
    )
        .prop_map(
            |(backing, doublings, slots, start, is_lossy, is_single_writer, has_timestamps)| Setting {
                backing,
                doublings,
                slots,
                start,
                is_lossy,
                is_single_writer,
                has_timestamps,
            },
        )
}

pub(super) fn steps() -> impl Strategy<Value = Step> {
    let who = || 0..SEATS;
    let kind = || 0..KINDS.len();
    let len = || {
        prop_oneof![
            12 => (0..200usize).prop_map(Len::Bytes),
            4 => (0..1000usize).prop_map(Len::Bytes),
            2 => any::<u8>().prop_map(Len::Share),
            1 => (-70..70i8).prop_map(Len::Longest),
            2 => (-70..70i8).prop_map(Len::Room),
        ]
    };
    let role = prop_oneof![
        4 => Just(Some(Role::Member)),
        2 => Just(Some(Role::Writer)),
        2 => Just(Some(Role::Reader)),
        2 => Just(None),
    ];
    let start = prop_oneof![Just(Start::Now), Just(Start::Oldest)];
    let change = prop_oneof![
        (0..NAMES.len()).prop_map(ScreenChange::AddSender),
        (0..NAMES.len()).prop_map(ScreenChange::RemoveSender),
        kind().prop_map(ScreenChange::AddKind),
        kind().prop_map(ScreenChange::RemoveKind),
        any::<bool>().prop_map(ScreenChange::HearOwn),
    ];
    let finish = prop_oneof![
        3 => Just(Finish::Commit),
        3 => any::<u8>().prop_map(Finish::CommitFirst),
        2 => Just(Finish::Abort),
    ];
    prop_oneof![
        6 => (who(), role, 0..NAMES.len(), start, any::<bool>())
            .prop_map(|(who, role, name, start, hears_own)| Step::Join { who, role, name, start, hears_own }),
        2 => who().prop_map(|who| Step::Leave { who }),
        24 => (who(), kind(), len()).prop_map(|(who, kind, len)| Step::Append { who, kind, len }),
        6 => (who(), prop::collection::vec((kind(), len()), 0..6))
            .prop_map(|(who, messages)| Step::AppendAll { who, messages }),
        1 => who().prop_map(|who| Step::KindTooLong { who }),
        8 => (who(), kind(), len()).prop_map(|(who, kind, len)| Step::Reserve { who, kind, len }),
        8 => (who(), finish).prop_map(|(who, how)| Step::Finish { who, how }),
        16 => who().prop_map(|who| Step::Pop { who }),
        4 => who().prop_map(|who| Step::PopInto { who }),
        8 => (who(), any::<bool>(), prop::bool::weighted(0.05))
            .prop_map(|(who, keeps, is_evicted_meanwhile)| Step::Peek { who, keeps, is_evicted_meanwhile }),
        8 => who().prop_map(|who| Step::Drain { who }),
        4 => (who(), change).prop_map(|(who, change)| Step::ChangeScreen { who, change }),
        2 => (who(), prop_oneof![Just(0), 0..3000u64, Just(HOME_LIMIT)])
            .prop_map(|(who, bytes)| Step::LimitHome { who, bytes }),
        1 => who().prop_map(|who| Step::Evict { who }),
        1 => Just(Step::EvictSomebodyGone),
    ]
}
