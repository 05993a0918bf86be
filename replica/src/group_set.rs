//! A small ordered set of groups.
//!
//! Nearly every turn of the driver puts a group or two into one and empties it again. A sorted list does that in one
//! small allocation, where a tree needs a node with room for eleven and a walk to take it apart.

use crate::config::GroupId;

/// Groups, each once, in order.
#[derive(Debug, Default)]
pub(crate) struct GroupSet(Vec<GroupId>);

impl GroupSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn contains(&self, id: GroupId) -> bool {
        self.0.binary_search(&id).is_ok()
    }

    pub(crate) fn insert(&mut self, id: GroupId) {
        if let Err(place) = self.0.binary_search(&id) {
            self.0.insert(place, id);
        }
    }

    pub(crate) fn remove(&mut self, id: GroupId) {
        if let Ok(place) = self.0.binary_search(&id) {
            self.0.remove(place);
        }
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, GroupId> {
        self.0.iter()
    }
}

impl IntoIterator for GroupSet {
    type Item = GroupId;
    type IntoIter = std::vec::IntoIter<GroupId>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a GroupSet {
    type Item = &'a GroupId;
    type IntoIter = std::slice::Iter<'a, GroupId>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_kept_once_and_in_order() {
        let mut set = GroupSet::default();
        for id in [5, 1, 9, 5, 1] {
            set.insert(GroupId(id));
        }
        set.remove(GroupId(1));
        set.remove(GroupId(2));
        assert!(set.contains(GroupId(9)) && !set.contains(GroupId(1)));
        assert_eq!(set.into_iter().collect::<Vec<_>>(), [GroupId(5), GroupId(9)]);
    }
}
