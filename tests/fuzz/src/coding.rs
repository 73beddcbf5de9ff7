//! Values as bytes: any bytes are values, and any value is some bytes, so that a script
//! can be mutated by who does not know it and written by who does.

use std::fmt;
use std::slice;

/// The most elements of a list.
const MOST: usize = 64;

/// Bytes that are read.
pub struct Bytes<'a>(slice::Iter<'a, u8>);

/// What is made of bytes.
pub trait Coded: Sized {
    /// Reads one; none where the bytes are used up.
    fn read(bytes: &mut Bytes<'_>) -> Option<Self>;

    /// Writes what is read as this.
    fn write(&self, bytes: &mut Vec<u8>);
}

macro_rules! numbers {
    ($($number:ty),+) => {
        $(impl Coded for $number {
            fn read(bytes: &mut Bytes<'_>) -> Option<Self> {
                let mut number = [0; size_of::<Self>()];
                for byte in &mut number {
                    *byte = *bytes.0.next()?;
                }
                Some(Self::from_le_bytes(number))
            }

            fn write(&self, bytes: &mut Vec<u8>) {
                bytes.extend(self.to_le_bytes());
            }
        })+
    };
}

numbers!(u8, u16, u32);

impl Coded for bool {
    fn read(bytes: &mut Bytes<'_>) -> Option<Self> {
        u8::read(bytes).map(|byte| byte % 2 == 1)
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        u8::from(*self).write(bytes);
    }
}

impl<T: Coded> Coded for Vec<T> {
    /// As many as there are, where there are less than there should be.
    fn read(bytes: &mut Bytes<'_>) -> Option<Self> {
        let count = usize::from(u8::read(bytes)?).min(MOST);
        Some((0..count).map_while(|_| T::read(bytes)).collect())
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        assert!(self.len() <= MOST, "{} elements", self.len());
        (self.len() as u8).write(bytes);
        self.iter().for_each(|element| element.write(bytes));
    }
}

/// Defines types that are made of bytes.
macro_rules! coded {
    () => {};
    ($(#[doc = $doc:literal])+ pub struct $name:ident {
        $($(#[doc = $about:literal])+ pub $field:ident: $type:ty,)+
    } $($rest:tt)*) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug)]
        pub struct $name {
            $($(#[doc = $about])+ pub $field: $type,)+
        }

        impl $crate::coding::Coded for $name {
            fn read(bytes: &mut $crate::coding::Bytes<'_>) -> Option<Self> {
                Some(Self { $($field: $crate::coding::Coded::read(bytes)?,)+ })
            }

            fn write(&self, bytes: &mut Vec<u8>) {
                $($crate::coding::Coded::write(&self.$field, bytes);)+
            }
        }

        $crate::coding::coded!($($rest)*);
    };
    ($(#[doc = $doc:literal])+ pub enum $name:ident {
        $($(#[doc = $about:literal])+ $variant:ident $({ $($field:ident: $type:ty),+ $(,)? })?,)+
    } $($rest:tt)*) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug)]
        pub enum $name {
            $($(#[doc = $about])+ $variant $({ $($field: $type),+ })?,)+
        }

        impl $crate::coding::Coded for $name {
            fn read(bytes: &mut $crate::coding::Bytes<'_>) -> Option<Self> {
                type Read = fn(&mut $crate::coding::Bytes<'_>) -> Option<$name>;
                const VARIANTS: &[Read] = &[$(|_bytes| Some($name::$variant $({
                    $($field: $crate::coding::Coded::read(_bytes)?,)+
                })?),)+];
                let number = usize::from(<u8 as $crate::coding::Coded>::read(bytes)?);
                VARIANTS[number % VARIANTS.len()](bytes)
            }

            fn write(&self, bytes: &mut Vec<u8>) {
                const NAMES: &[&str] = &[$(stringify!($variant)),+];
                match self {
                    $(Self::$variant $({ $($field),+ })? => {
                        let place = NAMES.iter().position(|name| *name == stringify!($variant));
                        $crate::coding::Coded::write(&(place.unwrap_or_default() as u8), bytes);
                        $($($crate::coding::Coded::write($field, bytes);)+)?
                    })+
                }
            }
        }

        $crate::coding::coded!($($rest)*);
    };
}

pub(crate) use coded;

/// An input: a setup and a script.
#[derive(Clone, Debug)]
pub struct Script<Setup, Deed> {
    /// What there is.
    pub setup: Setup,
    /// What is done.
    pub deeds: Vec<Deed>,
}

impl<Setup: Coded, Deed: Coded> Coded for Script<Setup, Deed> {
    /// As many deeds as the bytes have, up to a bound.
    fn read(bytes: &mut Bytes<'_>) -> Option<Self> {
        let setup = Setup::read(bytes)?;
        let deeds = (0..MOST).map_while(|_| Deed::read(bytes)).collect();
        Some(Self { setup, deeds })
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        assert!(self.deeds.len() <= MOST, "{} deeds", self.deeds.len());
        self.setup.write(bytes);
        self.deeds.iter().for_each(|deed| deed.write(bytes));
    }
}

/// What bytes say; none where they do not even have a setup.
pub fn decode<T: Coded>(bytes: &[u8]) -> Option<T> {
    T::read(&mut Bytes(bytes.iter()))
}

/// The bytes that say it.
pub fn encode(value: &impl Coded) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.write(&mut bytes);
    bytes
}

/// What bytes say, for people.
pub fn tell<T: Coded + fmt::Debug>(bytes: &[u8]) -> String {
    decode::<T>(bytes).map_or_else(|| "nothing".to_string(), |value| format!("{value:#?}"))
}

/// One of a list, whatever the number.
pub fn pick<T: Copy>(list: &[T], number: u8) -> T {
    list[usize::from(number) % list.len()]
}
