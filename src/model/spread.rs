//! Experts that are spread over ranks, each at one of them: which are where, and how rows go to them and back.
//!
//! The one idea: a row goes as a copy to the rank that has its expert and comes back as a copy; there it is multiplied among the
//! rows of its own rank, and what is added is added at home. So no bit depends on where an expert is. Ranks first tell each
//! other how many rows go where; then as many ranks' rows go together as every rank has room for, and the others after them: a
//! row waits, none is dropped.
//!
//! Source: Lepikhin et al. 2020, arXiv:2006.16668 (expert parallel).

use crate::device::{Buffer, Device, View};
use crate::dist::packet::numbers;
use crate::dist::{Ranks, cuts};
use crate::error::Result;
use std::ops::Range;

/// Which experts of a layer are at which rank.
#[derive(Debug, Clone)]
pub struct Spread {
    ranks: Ranks,
    /// Experts E of a layer.
    count: usize,
}

/// Where the rows of each rank's experts begin among its own, in the order of experts: `[R, E + 1]`.
pub(super) type Told = Vec<Vec<i32>>;

/// Rows of some ranks, on their way together.
pub(super) struct Trip {
    /// Whose rows they are.
    pub of: Range<usize>,
    /// Where each rank's lie here: empty for those that wait.
    pub here: Vec<Range<usize>>,
    /// Which of this rank's own go to each rank.
    own: Vec<Range<usize>>,
    /// Rows of all ranks.
    rows: usize,
}

impl Spread {
    pub(super) fn new(ranks: &Ranks, count: usize) -> Spread {
        Spread { ranks: ranks.clone(), count }
    }

    /// How many ranks there are.
    pub(super) fn world(&self) -> usize {
        self.ranks.world()
    }

    fn experts_of(&self, rank: usize) -> Range<usize> {
        cuts::dealt(rank, self.world(), self.count)
    }

    /// The experts of this rank.
    pub(super) fn own(&self) -> Range<usize> {
        self.experts_of(self.ranks.rank())
    }

    /// Tells all ranks where this one's rows of each expert begin, `offsets [E + 1]`, of `rows` in all.
    pub(super) fn tell(&self, dev: &Device, offsets: View, rows: usize) -> Result<Told> {
        let mut own = vec![0i32; self.count + 1];
        if rows > 0 {
            dev.read(offsets, &mut own)?;
        }
        let told = self.ranks.gather("rows of each expert", bytemuck::cast_slice(&own))?;
        Ok(told.iter().map(|bytes| numbers(bytes)).collect())
    }

    /// Where the rows of this rank's experts begin among those that a rank has for them.
    pub(super) fn starts(&self, told: &Told, rank: usize) -> Vec<i32> {
        let own = &told[rank][self.own().start..=self.own().end];
        own.iter().map(|at| at - own[0]).collect()
    }

    /// Where those of a rank lie among those of all, `[R, E + 1]` of this rank's experts.
    pub(super) fn starts_of(&self, rank: usize) -> Range<usize> {
        let each = self.own().len() + 1;
        rank * each..(rank + 1) * each
    }

    /// All trips, of as many ranks each as every rank has room for: `room` rows, at least as many as one rank can have.
    pub(super) fn trips(&self, told: &Told, room: usize) -> Vec<Trip> {
        let (mut trips, mut first) = (vec![], 0);
        while first < self.world() {
            let (mut end, mut rows) = (first, vec![0; self.world()]);
            while end < self.world() {
                rows.iter_mut().enumerate().for_each(|(at, rows)| *rows += self.rows(told, end, at).len());
                if end > first && rows.iter().any(|rows| *rows > room) {
                    break;
                }
                end += 1;
            }
            trips.push(self.trip(told, first..end));
            first = end;
        }
        trips
    }

    fn trip(&self, told: &Told, of: Range<usize>) -> Trip {
        let (me, mut next) = (self.ranks.rank(), 0);
        let mut place = |rank: usize| {
            let start = next;
            next += if of.contains(&rank) { self.rows(told, rank, me).len() } else { 0 };
            start..next
        };
        let here = (0..self.world()).map(&mut place).collect();
        let own = |at: usize| if of.contains(&me) { self.rows(told, me, at) } else { 0..0 };
        let rows = told[of.clone()].iter().map(|starts| starts[self.count] as usize).sum();
        Trip { here, own: (0..self.world()).map(own).collect(), rows, of }
    }

    /// The rows of a rank for the experts at another, among its own.
    fn rows(&self, told: &Told, of: usize, at: usize) -> Range<usize> {
        let experts = self.experts_of(at);
        told[of][experts.start] as usize..told[of][experts.end] as usize
    }

    /// Sends rows of `width` to their experts: this rank's `from` there, those for its own experts come `into` its room. Returns
    /// how many it sent to others.
    pub(super) fn send(
        &self,
        dev: &Device,
        trip: &Trip,
        (from, width): (&Buffer, usize),
        into: &mut Buffer,
    ) -> Result<u64> {
        self.exchange("rows to their experts", dev, trip, (from, &trip.own), (into, &trip.here), width)
    }

    /// Sends what came of them back, from its room `into` where this rank's rows were.
    pub(super) fn send_back(
        &self,
        dev: &Device,
        trip: &Trip,
        (from, width): (&Buffer, usize),
        into: &mut Buffer,
    ) -> Result<u64> {
        self.exchange("rows back from their experts", dev, trip, (from, &trip.here), (into, &trip.own), width)
    }

    fn exchange(
        &self,
        what: &'static str,
        dev: &Device,
        trip: &Trip,
        (from, cuts): (&Buffer, &[Range<usize>]),
        (into, places): (&mut Buffer, &[Range<usize>]),
        width: usize,
    ) -> Result<u64> {
        if trip.rows == 0 {
            return Ok(0);
        }
        let of = |rows: &[Range<usize>]| -> Vec<Range<usize>> {
            rows.iter().map(|rows| rows.start * width..rows.end * width).collect()
        };
        self.ranks.exchange(what, dev, (from.view(), &of(cuts)), (into, &of(places)))?;
        let all: usize = cuts.iter().map(Range::len).sum();
        Ok((all - cuts[self.ranks.rank()].len()) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Told of three ranks with so many rows for each of four experts: at rank 0 is the first, at 1 the second, at 2 two.
    fn told(rows: [[i32; 4]; 3]) -> Told {
        let starts = |rows: [i32; 4]| (0..=4).map(|e| rows[..e].iter().sum()).collect();
        rows.map(starts).into()
    }

    #[test]
    fn rows_go_together_as_far_as_every_rank_has_room_and_all_go() {
        let at = |rank| Spread::new(&Ranks::on_paper(rank, 3), 4);
        assert_eq!([0, 1, 2].map(|rank| at(rank).own()), [0..1, 1..2, 2..4]);
        let even = told([[1, 1, 1, 1], [1, 1, 1, 1], [0, 2, 2, 0]]);
        assert_eq!(at(1).trips(&even, 8).len(), 1);
        let trip = &at(2).trips(&even, 8)[0];
        assert_eq!((trip.of.clone(), trip.here.clone()), (0..3, vec![0..2, 2..4, 4..6]));
        assert_eq!((trip.own.clone(), trip.rows), (vec![0..0, 0..2, 2..4], 12));
        assert_eq!(at(2).starts(&even, 2), [0, 2, 2]);
        // All to rank 2's: two ranks' rows are more than there is room for.
        let crowd = told([[0, 0, 4, 0], [0, 0, 3, 1], [0, 0, 0, 0]]);
        for rank in 0..3 {
            let trips = at(rank).trips(&crowd, 7);
            assert_eq!(trips.iter().map(|trip| trip.of.clone()).collect::<Vec<_>>(), [0..1, 1..3]);
            let here: usize = trips.iter().flat_map(|trip| &trip.here).map(Range::len).sum();
            let own: usize = trips.iter().flat_map(|trip| &trip.own).map(Range::len).sum();
            assert_eq!([here, own], [[0, 4], [0, 4], [8, 0]][rank]);
        }
        assert_eq!(at(0).trips(&told([[0; 4]; 3]), 1)[0].rows, 0, "nobody has any");
    }
}
