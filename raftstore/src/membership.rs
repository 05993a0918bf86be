//! What a change of members may be, and what a region is after it: the same on every replica, without raft and disk.
//!
//! Raft knows peers by number and knows no reasons. So a change carries pairs of numbers beside its steps:
//!
//! ```text
//! (store, peer)   a new peer lives on this store
//! (0, peer)       this peer is to leave
//! ```
//!
//! Who is to leave is part of the region from then on (`leaving_peer_id`), so whoever leads it finishes what another
//! leader began.

use crate::catalog::Members;
use bytes::{Buf, Bytes, BytesMut};
use nokv_proto::meta::v1::{RegionDescriptor, RegionEpoch, RegionPeer};
use nokv_replica::{ConfChange, PeerChange};
use prost::encoding::{decode_varint, encode_varint};
use std::collections::{BTreeMap, BTreeSet};

/// What a change of members says beside its steps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Beside {
    /// Store and peer of who is new.
    pub(crate) homes: Vec<(u64, u64)>,
    /// Who is to leave.
    pub(crate) leaving: Option<u64>,
}

impl Beside {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        for (store_id, peer_id) in self.homes.iter().copied().chain(self.leaving.map(|peer| (0, peer))) {
            encode_varint(store_id, &mut out);
            encode_varint(peer_id, &mut out);
        }
        out.freeze()
    }

    fn decode(context: &Bytes) -> Result<Self, &'static str> {
        let mut context = context.clone();
        let mut beside = Self::default();
        while context.has_remaining() {
            let mut number =
                || decode_varint(&mut context).map_err(|_| "unreadable context of a membership change");
            match (number()?, number()?) {
                (0, peer) => beside.leaving = Some(peer),
                home => beside.homes.push(home),
            }
        }
        Ok(beside)
    }
}

/// Whether a change may be proposed by peer `own`, which leads the region; the error says why not.
pub(crate) fn admits(
    region: &RegionDescriptor,
    members: &Members,
    own: Option<u64>,
    change: &ConfChange,
) -> Result<(), String> {
    if !members.voters_outgoing.is_empty() {
        return Err("a change of several peers is under way".to_owned());
    }
    let beside = Beside::decode(&change.context)?;
    for (store_id, peer_id) in &beside.homes {
        if region.peer_on_store(*store_id).is_some() || region.peer(*peer_id).is_some() {
            return Err(format!("store {store_id} or peer {peer_id} is a member already"));
        }
    }
    match members.learners.first() {
        Some(learner) => finishes(*learner, region.leaving_peer_id, members, &change.changes),
        None => begins(region, members, own, change, &beside),
    }
}

/// While there is a learner, only what ends that is let in: it gets its vote, in place of who is to leave if somebody
/// is, or it goes.
fn finishes(learner: u64, leaving: u64, members: &Members, changes: &[PeerChange]) -> Result<(), String> {
    let votes = |peer: u64| members.voters.contains(&peer);
    let ends = match *changes {
        [PeerChange::Remove(peer)] => peer == learner,
        // Who has lost its vote in order to leave does not get it back.
        [PeerChange::AddVoter(peer)] => peer == learner && peer != leaving && !votes(leaving),
        [PeerChange::AddVoter(new), PeerChange::AddLearner(old)] => {
            new == learner && old == leaving && votes(old)
        }
        _ => false,
    };
    match ends {
        true => Ok(()),
        false if learner == leaving => Err(format!("peer {learner} is leaving")),
        false => Err(format!("peer {learner} is still catching up")),
    }
}

fn begins(
    region: &RegionDescriptor,
    members: &Members,
    own: Option<u64>,
    change: &ConfChange,
    beside: &Beside,
) -> Result<(), String> {
    let (peer, comes) = match *change.changes {
        [PeerChange::AddLearner(peer)] => (peer, !members.voters.contains(&peer)),
        // Who was to get its vote may have been removed since.
        [PeerChange::AddVoter(peer) | PeerChange::Remove(peer)] if region.peer(peer).is_none() => {
            return Err(format!("peer {peer} is no member"));
        }
        [PeerChange::AddVoter(peer)] => return Err(format!("peer {peer} has a vote")),
        [PeerChange::Remove(peer)] => {
            return Err(format!("peer {peer} has a vote, which it must lose first"));
        }
        _ => return Err("no single peer comes or goes".to_owned()),
    };
    if comes && !beside.homes.iter().any(|(_, known)| *known == peer) {
        return Err(format!("peer {peer} is no member"));
    }
    if let Some(old) = beside.leaving
        && !members.voters.contains(&old)
    {
        return Err(format!("peer {old} has no vote"));
    }
    match comes {
        true => Ok(()),
        false if beside.leaving != Some(peer) => Err(format!("peer {peer} has a vote")),
        false if own == Some(peer) => Err(format!("peer {peer} leads")),
        false if members.voters.len() == 1 => Err("its last peer cannot leave".to_owned()),
        false => Ok(()),
    }
}

/// The region after a change of members, with the context that came with the change.
pub(crate) fn reconfigured(
    old: &RegionDescriptor,
    members: &Members,
    context: &Bytes,
) -> Result<RegionDescriptor, &'static str> {
    let beside = Beside::decode(context)?;
    let mut known: BTreeMap<u64, u64> = old.peers.iter().map(|peer| (peer.peer_id, peer.store_id)).collect();
    known.extend(beside.homes.iter().map(|(store_id, peer_id)| (*peer_id, *store_id)));
    let without_a_vote = [&members.learners, &members.voters_outgoing, &members.learners_next];
    let lists = without_a_vote.into_iter().chain([&members.voters]);
    let now: BTreeSet<u64> = lists.flatten().copied().collect();
    let before: BTreeSet<u64> = old.peers.iter().map(|peer| peer.peer_id).collect();
    let peer = |peer_id: &u64| {
        let home = known.get(peer_id).ok_or("a new peer whose store is not named");
        home.map(|store_id| RegionPeer { store_id: *store_id, peer_id: *peer_id })
    };
    // Peers keep their order, new ones come last.
    let kept = old.peers.iter().map(|peer| peer.peer_id).filter(|id| now.contains(id)).collect::<Vec<_>>();
    let peers: Result<Vec<_>, _> = kept.iter().chain(now.difference(&before)).map(peer).collect();
    // Nobody leaves any more once everybody has a vote: the newcomer that was to take the place was given up.
    let is_settled = without_a_vote.into_iter().all(Vec::is_empty);
    let leaving = beside.leaving.unwrap_or(old.leaving_peer_id);
    let leaving = if is_settled || !now.contains(&leaving) { 0 } else { leaving };
    let changes = now.symmetric_difference(&before).count() as u64;
    // Two states of a region under one epoch must be equal.
    let changes = if changes == 0 && leaving != old.leaving_peer_id { 1 } else { changes };
    let (version, conf_version) = old.epoch_pair();
    Ok(RegionDescriptor {
        peers: peers?,
        epoch: Some(RegionEpoch { version, conf_version: conf_version + changes }),
        leaving_peer_id: leaving,
        quarantined_peer_ids: old
            .quarantined_peer_ids
            .iter()
            .copied()
            .filter(|id| now.contains(id))
            .collect(),
        ..old.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::region;
    use PeerChange::{AddLearner, AddVoter, Remove};

    /// A region on stores 1, 2, 3 whose peers are 101, 201, 301, led by the first.
    struct Group {
        region: RegionDescriptor,
        members: Members,
    }

    impl Group {
        fn new() -> Self {
            let region = region(&[1, 2, 3]);
            Self { members: Members::all_vote(&region), region }
        }

        fn may(&self, changes: &[PeerChange], beside: &Beside) -> Result<(), String> {
            let change =
                ConfChange { changes: changes.to_vec(), context: beside.encode(), ..ConfChange::default() };
            admits(&self.region, &self.members, Some(101), &change)
        }

        fn becomes(&mut self, voters: &[u64], learners: &[u64], beside: &Beside) -> (Vec<u64>, u64, u64) {
            self.members =
                Members { voters: voters.to_vec(), learners: learners.to_vec(), ..Members::default() };
            self.region = reconfigured(&self.region, &self.members, &beside.encode()).expect("readable");
            let peers = self.region.peers.iter().map(|peer| peer.peer_id).collect();
            (peers, self.region.leaving_peer_id, self.region.epoch_pair().1)
        }
    }

    fn nothing() -> Beside {
        Beside::default()
    }

    fn leaves(peer: u64) -> Beside {
        Beside { leaving: Some(peer), ..Beside::default() }
    }

    #[test]
    fn what_is_said_beside_the_steps_survives_the_log() {
        let beside = Beside { homes: vec![(4, 401), (5, 300)], leaving: Some(301) };
        assert_eq!(&beside.encode()[..], [4, 0x91, 3, 5, 0xac, 2, 0, 0xad, 2]);
        assert_eq!(Beside::decode(&beside.encode()), Ok(beside));
        assert!(Beside::decode(&Bytes::from_static(&[4])).is_err());
    }

    #[test]
    fn a_voter_loses_its_vote_before_it_goes() {
        let mut group = Group::new();
        assert!(group.may(&[Remove(301)], &nothing()).is_err_and(|why| why.contains("lose first")));
        assert!(group.may(&[AddLearner(301)], &nothing()).is_err(), "for no reason");
        assert!(group.may(&[AddLearner(101)], &leaves(101)).is_err_and(|why| why.contains("leads")));
        assert_eq!(group.may(&[AddLearner(301)], &leaves(301)), Ok(()));
        assert_eq!(group.becomes(&[101, 201], &[301], &leaves(301)), (vec![101, 201, 301], 301, 2));
        assert!(group.may(&[AddVoter(301)], &nothing()).is_err_and(|why| why.contains("is leaving")));
        assert!(group.may(&[AddLearner(201)], &leaves(201)).is_err(), "one at a time");
        assert_eq!(group.may(&[Remove(301)], &nothing()), Ok(()));
        assert_eq!(group.becomes(&[101, 201], &[], &nothing()), (vec![101, 201], 0, 3));
    }

    #[test]
    fn a_newcomer_takes_a_place_at_once_or_not_at_all() {
        let newcomer = Beside { homes: vec![(4, 401)], leaving: Some(301) };
        let mut group = Group::new();
        assert_eq!(group.may(&[AddLearner(401)], &newcomer), Ok(()));
        assert!(group.may(&[AddLearner(401)], &Beside { leaving: Some(77), ..newcomer.clone() }).is_err());
        assert_eq!(group.becomes(&[101, 201, 301], &[401], &newcomer), (vec![101, 201, 301, 401], 301, 2));
        assert!(group.may(&[AddVoter(401)], &nothing()).is_err(), "four votes");
        assert!(group.may(&[AddVoter(401), AddLearner(201)], &nothing()).is_err(), "another one's place");
        assert_eq!(group.may(&[AddVoter(401), AddLearner(301)], &nothing()), Ok(()));
        let mut given_up = Group { region: group.region.clone(), members: group.members.clone() };
        assert_eq!(given_up.may(&[Remove(401)], &nothing()), Ok(()));
        assert_eq!(given_up.becomes(&[101, 201, 301], &[], &nothing()), (vec![101, 201, 301], 0, 3));
        assert_eq!(group.becomes(&[101, 201, 401], &[301], &nothing()), (vec![101, 201, 301, 401], 301, 2));
        assert!(group.may(&[AddVoter(301)], &nothing()).is_err());
        assert_eq!(group.becomes(&[101, 201, 401], &[], &nothing()), (vec![101, 201, 401], 0, 3));
    }

    #[test]
    fn only_members_and_those_whose_store_is_named_come() {
        let group = Group::new();
        let at = |home| Beside { homes: vec![home], ..Beside::default() };
        assert!(group.may(&[AddVoter(77)], &nothing()).is_err_and(|why| why.contains("no member")));
        assert!(group.may(&[AddLearner(77)], &nothing()).is_err_and(|why| why.contains("no member")));
        assert!(group.may(&[AddVoter(77)], &at((4, 77))).is_err(), "empty, and with a vote");
        assert_eq!(group.may(&[AddLearner(77)], &at((4, 77))), Ok(()));
        assert!(group.may(&[AddLearner(77)], &at((2, 77))).is_err_and(|why| why.contains("member already")));
    }

    #[test]
    fn membership_changes_keep_the_order_and_count_the_epoch() {
        let peer = |id: u64| RegionPeer { store_id: id / 100, peer_id: id };
        let old = RegionDescriptor {
            region_id: 7,
            epoch: Some(RegionEpoch { version: 4, conf_version: 3 }),
            peers: vec![peer(301), peer(101), peer(201)],
            ..Default::default()
        };
        let members = |voters: &[u64]| Members { voters: voters.to_vec(), ..Members::default() };
        let new =
            reconfigured(&old, &members(&[101, 301, 99]), &Bytes::from_static(&[5, 99])).expect("readable");
        assert_eq!(new.peers, [peer(301), peer(101), RegionPeer { store_id: 5, peer_id: 99 }]);
        assert_eq!(new.epoch_pair(), (4, 5));
        assert!(reconfigured(&old, &members(&[99]), &Bytes::new()).is_err());
        assert_eq!(reconfigured(&old, &members(&[101, 201, 301]), &Bytes::new()).expect("readable"), old);
    }
}
