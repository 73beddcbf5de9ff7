//! VLANs: which of them a port takes part in, and how frames say in which they are.
//!
//! What a vif's `vlan=` says is what xl-network-configuration(5) gives that key to say, and
//! the rules are those of a Linux bridge with `vlan_filtering`:
//!
//! - A port is a member of some VLANs. One of them, its PVID, is that of frames that come
//!   without a tag or with one that names none. A frame of a VLAN that its port is no
//!   member of is dropped, and none leaves by such a port.
//! - A frame leaves with its VLAN's tag, or without where the port has the VLAN untagged.
//! - A tag is one of IEEE 802.1Q, type 0x8100, at the start of the frame. A service tag
//!   (0x88a8) is payload.
//! - A port for which nothing is configured has VLAN 1 alone, untagged. The uplink has that
//!   untagged as well, and all others tagged; so have links between vCPUs.
//!
//! All of this holds on a bridge of which some port has VLANs configured. Any other bridge
//! passes frames as they are, with whatever tags.
//!
//! One rule is not Linux': without its tag, no frame leaves that then begins with another
//! one. Whoever is in a VLAN that a trunk has untagged would reach any other VLAN of the
//! trunk with two tags.

use core::fmt;
use core::mem;
use core::str::FromStr;

use super::counters::DropReason;
use super::port::{PortConfig, PortKind};
use crate::packet::{Fragment, Linear, Packet, VLAN_TAG};
use crate::{OWN_HEADERS, Pools};

/// The VLAN of ports for which nothing is configured, as with Linux.
const DEFAULT: u16 = 1;
/// The last VLAN: 4095 is reserved (IEEE 802.1Q, table 9-2).
const LAST: u16 = 4094;

/// The type of a tag, and where it and what it tags are named.
const TAG_TYPE: [u8; 2] = [0x81, 0x00];
const TYPE: usize = 12;
/// The bits of a tag that name a VLAN.
const VLAN_BITS: u16 = 0xfff;

/// The VLANs of a port (`vlan=`).
#[derive(Clone, PartialEq, Eq)]
pub struct Vlans {
    pvid: u16,
    members: VlanSet,
    untagged: VlanSet,
}

/// A bit for each VLAN.
#[derive(Clone, PartialEq, Eq)]
struct VlanSet([u64; 64]);

impl VlanSet {
    const EMPTY: Self = Self([0; 64]);

    fn contains(&self, vlan: u16) -> bool {
        let word = self.0.get(usize::from(vlan / 64));
        word.is_some_and(|word| word & 1 << (vlan % 64) != 0)
    }

    /// Adds a VLAN; whether it was not there.
    fn insert(&mut self, vlan: u16) -> bool {
        let new = !self.contains(vlan);
        if let Some(word) = self.0.get_mut(usize::from(vlan / 64)) {
            *word |= 1 << (vlan % 64);
        }
        new
    }
}

impl Vlans {
    /// The VLAN of frames that come without a tag.
    pub const fn pvid(&self) -> u16 {
        self.pvid
    }

    /// How frames of a VLAN leave; `None` where they do not.
    pub fn form(&self, vlan: u16) -> Option<Form> {
        let form = if self.untagged.contains(vlan) { Form::Untagged } else { Form::Tagged };
        self.members.contains(vlan).then_some(form)
    }
}

impl fmt::Debug for Vlans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = (1..=LAST).filter_map(|vlan| Some((vlan, self.form(vlan)?)));
        write!(f, "Vlans {{ pvid: {}, members: ", self.pvid)?;
        f.debug_map().entries(members).finish()?;
        f.write_str(" }")
    }
}

/// Whether a frame has its VLAN's tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// It does not, and its port says which VLAN it is of.
    Untagged,
    /// It begins with it.
    Tagged,
}

/// What is wrong with a text that should name VLANs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VlanError {
    /// A term is none of `VLAN`, `VLAN-VLAN` and `VLAN+OFFSETxCOUNT`.
    Term,
    /// A VLAN is not one of 1 to 4094.
    Range,
    /// A range ends before it begins, or stays where it begins.
    Order,
    /// A VLAN is named twice.
    Twice(u16),
    /// No VLAN is marked as the PVID.
    NoPvid,
    /// More than one is.
    TwoPvids,
}

impl fmt::Display for VlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Term => f.write_str("a term is not VLAN, VLAN-VLAN or VLAN+OFFSETxCOUNT"),
            Self::Range => write!(f, "a VLAN is not one of 1 to {LAST}"),
            Self::Order => f.write_str("a range does not go upwards"),
            Self::Twice(vlan) => write!(f, "VLAN {vlan} is named twice"),
            Self::NoPvid => f.write_str("no VLAN is marked as the PVID, with a p behind it"),
            Self::TwoPvids => f.write_str("more than one VLAN is marked as the PVID"),
        }
    }
}

impl FromStr for Vlans {
    type Err = VlanError;

    fn from_str(text: &str) -> Result<Self, VlanError> {
        let mut vlans = Self { pvid: 0, members: VlanSet::EMPTY, untagged: VlanSet::EMPTY };
        for term in text.split('/') {
            vlans.add(Term::parse(term)?)?;
        }
        if vlans.pvid == 0 {
            // One VLAN alone needs no mark.
            let only = number(text.trim_end_matches('u')).map_err(|_| VlanError::NoPvid)?;
            vlans.untagged.insert(only);
            vlans.pvid = only;
        }
        Ok(vlans)
    }
}

impl Vlans {
    fn add(&mut self, term: Term) -> Result<(), VlanError> {
        if term.pvid && mem::replace(&mut self.pvid, term.first) != 0 {
            return Err(VlanError::TwoPvids);
        }
        for vlan in (term.first..=term.last).step_by(term.step.into()) {
            if !self.members.insert(vlan) {
                return Err(VlanError::Twice(vlan));
            }
            if term.untagged {
                self.untagged.insert(vlan);
            }
        }
        Ok(())
    }
}

/// A part of the text between slashes.
struct Term {
    first: u16,
    last: u16,
    /// Not zero.
    step: u16,
    pvid: bool,
    untagged: bool,
}

impl Term {
    fn parse(text: &str) -> Result<Self, VlanError> {
        let (text, pvid, untagged) = match (text.strip_suffix('p'), text.strip_suffix('u')) {
            (Some(text), _) => (text, true, true),
            (_, Some(text)) => (text, false, true),
            _ => (text, false, false),
        };
        let is_range = text.contains(['-', '+']);
        let (first, last, step) = if let Some((first, last)) = text.split_once('-') {
            (number(first)?, number(last)?, 1)
        } else if let Some((first, rest)) = text.split_once('+') {
            let (step, count) = rest.split_once('x').ok_or(VlanError::Term)?;
            let (first, step, count) = (number(first)?, number(step)?, number(count)?);
            let last = u32::from(first) + u32::from(step) * u32::from(count);
            (first, last.try_into().map_err(|_| VlanError::Range)?, step)
        } else {
            (number(text)?, number(text)?, 1)
        };
        if pvid && is_range {
            return Err(VlanError::Term);
        }
        if !(1..=LAST).contains(&first) || !(1..=LAST).contains(&last) {
            return Err(VlanError::Range);
        }
        if step == 0 || last < first {
            return Err(VlanError::Order);
        }
        Ok(Self { first, last, step, pvid, untagged })
    }
}

/// A decimal number of digits alone.
fn number(text: &str) -> Result<u16, VlanError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(VlanError::Term);
    }
    text.parse().map_err(|_| VlanError::Range)
}

/// A frame's VLAN, on a bridge that has such.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct InVlan {
    pub(super) vlan: u16,
    /// How the frame is; `None` where it has a tag that names no VLAN, as for a priority
    /// alone, so that it is not as it leaves anywhere.
    pub(super) form: Option<Form>,
}

impl InVlan {
    /// The two forms that ports may want, that which takes no work before the other.
    pub(super) const fn forms(self) -> [Form; 2] {
        match self.form {
            Some(Form::Untagged) => [Form::Untagged, Form::Tagged],
            _ => [Form::Tagged, Form::Untagged],
        }
    }
}

impl PortConfig {
    /// The VLAN of a frame that comes from the port.
    pub(super) fn classify(&self, headers: &[u8]) -> Result<InVlan, DropReason> {
        let pvid = self.vlans.as_ref().map_or(DEFAULT, |vlans| vlans.pvid);
        let frame = match tag(headers)? {
            None => InVlan { vlan: pvid, form: Some(Form::Untagged) },
            Some(0) => InVlan { vlan: pvid, form: None },
            Some(vlan) => InVlan { vlan, form: Some(Form::Tagged) },
        };
        self.form(frame.vlan).map(|_| frame).ok_or(DropReason::Vlan)
    }

    /// How frames of a VLAN leave by the port; `None` where they do not.
    pub(super) fn form(&self, vlan: u16) -> Option<Form> {
        match &self.vlans {
            Some(vlans) => vlans.form(vlan),
            None if vlan == DEFAULT => Some(Form::Untagged),
            None => {
                (self.kind != PortKind::Guest && (1..=LAST).contains(&vlan)).then_some(Form::Tagged)
            }
        }
    }
}

/// The VLAN that a frame's tag names, 0 where it names none; `None` without a tag.
fn tag(headers: &[u8]) -> Result<Option<u16>, DropReason> {
    if !is_tagged(headers, 0) {
        return Ok(None);
    }
    // With the type of what it tags, or it is no whole tag.
    match headers.get(TYPE + 2..TYPE + 2 + VLAN_TAG) {
        Some(&[high, low, _, _]) => Ok(Some(u16::from_be_bytes([high, low]) & VLAN_BITS)),
        _ => Err(DropReason::Runt),
    }
}

/// Whether there is a tag behind so many others.
fn is_tagged(headers: &[u8], behind: usize) -> bool {
    let at = TYPE + behind * VLAN_TAG;
    headers.get(at..at + 2) == Some(&TAG_TYPE)
}

impl InVlan {
    /// Makes a frame as a port wants it, if it is in a VLAN at all; an error where the port
    /// wants it in no form, or it cannot be had in that one.
    pub(super) fn reshape(
        frame: &mut Option<Self>,
        form: Option<Form>,
        packet: &mut Packet,
        pools: &mut Pools,
    ) -> Result<(), DropReason> {
        let Some(frame) = frame else { return Ok(()) };
        let wanted = form.ok_or(DropReason::Vlan)?;
        if frame.form != form {
            retag(packet, frame.vlan, wanted, pools)?;
            frame.form = form;
        }
        Ok(())
    }
}

/// Gives a frame of a VLAN a tag or takes it off. Of what others look at as well, it takes
/// a copy before (NETBACK-SPEC O-5); lent pages are never touched.
fn retag(packet: &mut Packet, vlan: u16, form: Form, pools: &mut Pools) -> Result<(), DropReason> {
    let headers = packet.headers(&pools.buffers);
    let tagged = is_tagged(headers, 0);
    if tagged && form == Form::Untagged && is_tagged(headers, 1) {
        return Err(DropReason::Vlan);
    }
    let room = if form == Form::Tagged && !tagged { VLAN_TAG } else { 0 };
    let (linear, cell) = own_headers(packet, room, pools).ok_or(DropReason::Exhausted)?;
    let tag_len = VLAN_TAG as u16;
    let start = usize::from(linear.offset);
    match (form, tagged) {
        (Form::Untagged, true) => {
            cell.copy_within(start..start + TYPE, start + VLAN_TAG);
            linear.offset += tag_len;
            linear.len -= tag_len;
            packet.meta.gso = packet.meta.gso.map(|gso| gso.behind(-(VLAN_TAG as i16)));
        }
        (Form::Tagged, false) => {
            let start = start - VLAN_TAG;
            cell.copy_within(start + VLAN_TAG..start + VLAN_TAG + TYPE, start);
            cell[start + TYPE..start + TYPE + 2].copy_from_slice(&TAG_TYPE);
            cell[start + TYPE + 2..start + TYPE + 4].copy_from_slice(&vlan.to_be_bytes());
            linear.offset -= tag_len;
            linear.len += tag_len;
            packet.meta.gso = packet.meta.gso.map(|gso| gso.behind(VLAN_TAG as i16));
        }
        (Form::Tagged, true) => {
            // Its priority stays.
            let control = &mut cell[start + TYPE + 2..start + TYPE + 4];
            let priority = u16::from_be_bytes([control[0], control[1]]) & !VLAN_BITS;
            control.copy_from_slice(&(priority | vlan).to_be_bytes());
        }
        (Form::Untagged, false) => {}
    }
    Ok(())
}

/// A packet's headers, to be written, with so much room before them: in a buffer of their
/// own, where they were not. What lies behind them stays where it is.
fn own_headers<'a>(
    packet: &'a mut Packet,
    room: usize,
    pools: &'a mut Pools,
) -> Option<(&'a mut Linear, &'a mut [u8])> {
    let linear = packet.linear.as_mut()?;
    let owned = pools.buffers.bytes_mut(&mut linear.buffer).is_some();
    if usize::from(linear.offset) < room || !owned {
        let headers = usize::from(linear.len).min(OWN_HEADERS);
        if headers < linear.len.into() && packet.fragments.is_full() {
            return None;
        }
        let own = pools.copy_headers(linear, headers)?;
        let Linear { buffer, offset, len } = mem::replace(linear, own);
        let rest = Fragment::own(buffer, offset + linear.len, len - linear.len);
        if rest.len == 0 {
            pools.end(rest);
        } else if let Err(rest) = packet.fragments.insert(0, rest) {
            // Never: there was room.
            pools.end(rest);
        }
    }
    let cell = pools.buffers.bytes_mut(&mut linear.buffer)?;
    Some((linear, cell))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Result<(u16, Vec<(u16, Form)>), VlanError> {
        let vlans: Vlans = text.parse()?;
        let members = (0..=u16::MAX).filter_map(|vlan| Some((vlan, vlans.form(vlan)?)));
        Ok((vlans.pvid(), members.collect()))
    }

    fn tagged(vlans: &[u16]) -> impl Iterator<Item = (u16, Form)> {
        vlans.iter().map(|vlan| (*vlan, Form::Tagged))
    }

    #[test]
    fn the_manuals_examples() {
        let access = vec![(10, Form::Untagged)];
        assert_eq!(parsed("10"), Ok((10, access.clone())));
        assert_eq!(parsed("10p"), Ok((10, access.clone())));
        assert_eq!(parsed("10u"), Ok((10, access.clone())));
        let with = |more: &[u16]| Ok((10, access.iter().copied().chain(tagged(more)).collect()));
        assert_eq!(parsed("10p/20"), with(&[20]));
        assert_eq!(parsed("10p/100+10x4"), with(&[100, 110, 120, 130, 140]));
        assert_eq!(parsed("100-103/10p"), with(&[100, 101, 102, 103]));
        assert_eq!(parsed("10p/4094+1x0/11-11"), with(&[11, 4094]));
        let (pvid, members) = parsed("5p/1-3u/6+2x1u").unwrap();
        assert_eq!(pvid, 5);
        assert_eq!(members, [1, 2, 3, 5, 6, 8].map(|vlan| (vlan, Form::Untagged)));
        assert_eq!(parsed("1p/2-4094").unwrap().1.len(), 4094);
    }

    #[test]
    fn what_names_no_vlans() {
        for (text, error) in [
            ("", VlanError::Term),
            ("10p/", VlanError::Term),
            ("/10p", VlanError::Term),
            ("10pp", VlanError::Term),
            ("10pu", VlanError::Term),
            ("p", VlanError::Term),
            ("-1", VlanError::Term),
            ("+10", VlanError::Term),
            ("10 ", VlanError::Term),
            ("0x10", VlanError::Term),
            ("10,20", VlanError::Term),
            ("1-2-3", VlanError::Term),
            ("1-2p", VlanError::Term),
            ("1+2x3p", VlanError::Term),
            ("1+2", VlanError::Term),
            ("1+x2", VlanError::Term),
            ("1+2x", VlanError::Term),
            ("0", VlanError::Range),
            ("4095", VlanError::Range),
            ("65536", VlanError::Range),
            ("99999999999", VlanError::Range),
            ("1p/2-4095", VlanError::Range),
            ("1p/2+1x4093", VlanError::Range),
            ("1p/2+65535x65535", VlanError::Range),
            ("1p/3-2", VlanError::Order),
            ("1p/3+0x2", VlanError::Order),
            ("10/10", VlanError::Twice(10)),
            ("1p/2-5/4", VlanError::Twice(4)),
            ("7p/1+2x3", VlanError::Twice(7)),
            ("1p/2p", VlanError::TwoPvids),
            ("1/2", VlanError::NoPvid),
            ("1u/2", VlanError::NoPvid),
            ("10-10", VlanError::NoPvid),
            ("10+1x0", VlanError::NoPvid),
        ] {
            assert_eq!(parsed(text), Err(error), "{text}");
        }
    }

    proptest! {
        /// What is written from terms is read as what they mean, in any order.
        #[test]
        fn terms_mean_what_they_say(
            pvid in 1u16..=4094,
            terms in prop::collection::vec((1u16..4000, 1u16..9, 0u16..9, 0..3, any::<bool>()), 0..6),
        ) {
            let mut texts = vec![format!("{pvid}p")];
            let mut expected = vec![(pvid, Form::Untagged)];
            for (first, step, count, kind, untagged) in terms {
                let vlans: Vec<u16> = match kind {
                    0 => vec![first],
                    1 => (first..=first + count).collect(),
                    _ => (0..=count).map(|n| first + n * step).collect(),
                };
                if expected.iter().any(|(known, _)| vlans.contains(known)) {
                    continue;
                }
                let mark = if untagged { "u" } else { "" };
                texts.insert(texts.len() / 2, match kind {
                    0 => format!("{first}{mark}"),
                    1 => format!("{first}-{}{mark}", first + count),
                    _ => format!("{first}+{step}x{count}{mark}"),
                });
                let form = if untagged { Form::Untagged } else { Form::Tagged };
                expected.extend(vlans.into_iter().map(|vlan| (vlan, form)));
            }
            expected.sort_by_key(|(vlan, _)| *vlan);
            prop_assert_eq!(parsed(&texts.join("/")), Ok((pvid, expected)));
        }

        /// Any text is read or refused; what is read has one PVID, which is untagged, and
        /// VLANs that exist.
        #[test]
        fn any_text(text in "[0-9pux/+-]{0,24}") {
            if let Ok((pvid, members)) = parsed(&text) {
                prop_assert!(members.contains(&(pvid, Form::Untagged)));
                prop_assert!(members.iter().all(|(vlan, _)| (1..=LAST).contains(vlan)));
            }
        }
    }
}
