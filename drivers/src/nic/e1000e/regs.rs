//! The 82574's registers, those that the driver touches. Sections are those of the
//! Intel 82574 GbE Controller Family Datasheet, revision 3.4.

/// How many bytes of registers there are, in BAR 0 (10.1).
pub const LEN: u64 = 0x2_0000;

/// CTRL, device control (10.2.2.1). Bits 3 and 20 must stay as they are found.
pub(super) const CTRL: u32 = 0x0000;
pub(super) const CTRL_GIO_MASTER_DISABLE: u32 = 1 << 2;
pub(super) const CTRL_SLU: u32 = 1 << 6;
pub(super) const CTRL_FRCSPD: u32 = 1 << 11;
pub(super) const CTRL_FRCDPLX: u32 = 1 << 12;
pub(super) const CTRL_RST: u32 = 1 << 26;
pub(super) const CTRL_RFCE: u32 = 1 << 27;
pub(super) const CTRL_TFCE: u32 = 1 << 28;
pub(super) const CTRL_VME: u32 = 1 << 30;

/// STATUS, device status (10.2.2.2). Never all ones.
pub(super) const STATUS: u32 = 0x0008;
pub(super) const STATUS_FD: u32 = 1 << 0;
pub(super) const STATUS_LU: u32 = 1 << 1;
pub(super) const STATUS_SPEED_SHIFT: u32 = 6;
pub(super) const STATUS_GIO_MASTER_ENABLE: u32 = 1 << 19;

/// EEC, whose bit says that the configuration was read after a reset (10.2.2).
pub(super) const EEC: u32 = 0x0010;
pub(super) const EEC_AUTO_RD: u32 = 1 << 9;

/// CTRL_EXT, extended device control (10.2.2).
pub(super) const CTRL_EXT: u32 = 0x0018;
pub(super) const CTRL_EXT_EIAME: u32 = 1 << 24;
pub(super) const CTRL_EXT_IAME: u32 = 1 << 27;
pub(super) const CTRL_EXT_DRV_LOAD: u32 = 1 << 28;
pub(super) const CTRL_EXT_PBA_CLR: u32 = 1 << 31;

/// EXTCNF_CTRL, whose bit tells firmware to keep its hands off the PHY (4.5.2).
pub(super) const EXTCNF_CTRL: u32 = 0x0f00;
pub(super) const EXTCNF_CTRL_MDIO_SW_OWNERSHIP: u32 = 1 << 5;

/// GCR and GCR2, the PCIe block's control. A bit in each is what drivers set
/// against completions lost with ASPM, which stop transmission (Linux,
/// e1000_initialize_hw_bits_82571).
pub(super) const GCR: u32 = 0x5b00;
pub(super) const GCR_COMPLETIONS: u32 = 1 << 22;
pub(super) const GCR2: u32 = 0x5b64;
pub(super) const GCR2_COMPLETIONS: u32 = 1 << 0;

/// ICR, interrupt causes, cleared by writing ones (10.2.4.1). The same bits set
/// causes in ICS (10.2.4.4), and set and clear the mask in IMS and IMC (10.2.4.5,
/// 10.2.4.6).
pub(super) const ICR: u32 = 0x00c0;
pub(super) const ICS: u32 = 0x00c8;
pub(super) const IMS: u32 = 0x00d0;
pub(super) const IMC: u32 = 0x00d8;
pub(super) const CAUSE_LSC: u32 = 1 << 2;
pub(super) const CAUSE_RXQ0: u32 = 1 << 20;
pub(super) const CAUSE_TXQ0: u32 = 1 << 22;
pub(super) const CAUSE_OTHER: u32 = 1 << 24;

/// EIAC, the causes that sending their message clears (10.2.4).
pub(super) const EIAC: u32 = 0x00dc;

/// IVAR, which message each cause sends (10.2.4.9): four bits for each, the upper
/// one saying valid.
pub(super) const IVAR: u32 = 0x00e4;
pub(super) const IVAR_VALID: u32 = 0x8;
pub(super) const IVAR_RXQ0_SHIFT: u32 = 0;
pub(super) const IVAR_TXQ0_SHIFT: u32 = 8;
pub(super) const IVAR_OTHER_SHIFT: u32 = 16;
pub(super) const IVAR_EVERY_WRITE_BACK: u32 = 1 << 31;

/// EITR, the least time between a message's interrupts, in 256 ns (10.2.4).
pub(super) const EITR: [u32; 2] = [0x00e8, 0x00ec];

/// RCTL, receive control (10.2.5.1). Buffer size bits 0 mean 2048 bytes.
pub(super) const RCTL: u32 = 0x0100;
pub(super) const RCTL_EN: u32 = 1 << 1;
pub(super) const RCTL_UPE: u32 = 1 << 3;
pub(super) const RCTL_MPE: u32 = 1 << 4;
pub(super) const RCTL_LPE: u32 = 1 << 5;
pub(super) const RCTL_BAM: u32 = 1 << 15;
pub(super) const RCTL_DPF: u32 = 1 << 22;
pub(super) const RCTL_SECRC: u32 = 1 << 26;

/// RXCSUM, receive checksum control (10.2.5): which checksums are verified.
pub(super) const RXCSUM: u32 = 0x5000;
pub(super) const RXCSUM_IPOFLD: u32 = 1 << 8;
pub(super) const RXCSUM_TUOFLD: u32 = 1 << 9;

/// RFCTL, receive filter control (10.2.5).
pub(super) const RFCTL: u32 = 0x5008;
pub(super) const RFCTL_ACK_DIS: u32 = 1 << 12;
pub(super) const RFCTL_EXSTEN: u32 = 1 << 15;

/// The receive ring: base, length in bytes, head, tail (10.2.5.5 to 10.2.5.9).
pub(super) const RDBAL: u32 = 0x2800;
pub(super) const RDBAH: u32 = 0x2804;
pub(super) const RDLEN: u32 = 0x2808;
pub(super) const RDH: u32 = 0x2810;
pub(super) const RDT: u32 = 0x2818;

/// RAL and RAH, the first receive address, loaded from the NVM (10.2.5.23).
pub(super) const RAL: u32 = 0x5400;
pub(super) const RAH: u32 = 0x5404;
pub(super) const RAH_AV: u32 = 1 << 31;

/// TCTL, transmit control (10.2.6.1).
pub(super) const TCTL: u32 = 0x0400;
pub(super) const TCTL_EN: u32 = 1 << 1;
pub(super) const TCTL_PSP: u32 = 1 << 3;
pub(super) const TCTL_CT: u32 = 0xff << 4;
pub(super) const TCTL_CT_SUGGESTED: u32 = 0x0f << 4;
pub(super) const TCTL_COLD: u32 = 0x3ff << 12;
pub(super) const TCTL_COLD_FULL_DUPLEX: u32 = 0x3f << 12;

/// TIPG, the gap between packets (10.2.6), with the suggested value.
pub(super) const TIPG: u32 = 0x0410;
pub(super) const TIPG_SUGGESTED: u32 = 6 << 20 | 8 << 10 | 8;

/// The transmit ring, like the receive ring (10.2.6.4 to 10.2.6.8).
pub(super) const TDBAL: u32 = 0x3800;
pub(super) const TDBAH: u32 = 0x3804;
pub(super) const TDLEN: u32 = 0x3808;
pub(super) const TDH: u32 = 0x3810;
pub(super) const TDT: u32 = 0x3818;

/// RXDCTL and TXDCTL, when descriptors are fetched and written back: each by
/// itself, thresholds counted in descriptors (10.2.5.11, 10.2.6.11). Bit 22 of
/// TXDCTL is reserved and must be set.
pub(super) const RXDCTL: u32 = 0x2828;
pub(super) const TXDCTL: u32 = 0x3828;
pub(super) const DCTL_WTHRESH_ONE: u32 = 1 << 16;
pub(super) const DCTL_GRAN: u32 = 1 << 24;
pub(super) const TXDCTL_RESERVED: u32 = 1 << 22;

/// Counters, cleared by reading (10.2.7).
pub(super) const CRCERRS: u32 = 0x4000;
pub(super) const RXERRC: u32 = 0x400c;
pub(super) const MPC: u32 = 0x4010;
pub(super) const GPRC: u32 = 0x4074;
pub(super) const GPTC: u32 = 0x4080;
pub(super) const RUC: u32 = 0x40a4;
pub(super) const RFC: u32 = 0x40a8;
pub(super) const ROC: u32 = 0x40ac;
pub(super) const RJC: u32 = 0x40b0;
