import { HttpErrorResponse, HttpResponse, provideHttpClient, withInterceptors } from '@angular/common/http';
import { HttpTestingController, provideHttpClientTesting, TestRequest } from '@angular/common/http/testing';
import { TestBed } from '@angular/core/testing';
import { PendingKeys } from 'flask-idempotency';
import { firstValueFrom, Subscription } from 'rxjs';
import { beforeEach, describe, expect, it, vi } from 'vitest';

import { idempotencyInterceptor, PaymentService, provideIdempotency } from '../src';

interface Receipt {
  charge: number;
}

const PAYMENT = { amount: 42, currency: 'EUR' };

let database: string;
let payments: PaymentService;
let network: HttpTestingController;
let tests = 0;

/** The page, loaded: again with the same database, as a browser has it. */
function load(options: { attempts?: number; maxAge?: number } = {}) {
  const { maxAge, ...bounds } = options;
  TestBed.resetTestingModule();
  TestBed.configureTestingModule({
    providers: [
      provideHttpClient(withInterceptors([idempotencyInterceptor])),
      provideHttpClientTesting(),
      provideIdempotency({
        backoff: 1,
        pending: new PendingKeys({ database, ...(maxAge === undefined ? {} : { maxAge }) }),
        ...bounds,
      }),
    ],
  });
  payments = TestBed.inject(PaymentService);
  network = TestBed.inject(HttpTestingController);
}

function pay(payment: object = PAYMENT, order = 'order-17') {
  return firstValueFrom(payments.pay<Receipt>(order, '/payments', payment));
}

/** The next attempt, which comes once its key is kept. */
const attempt = () => vi.waitFor(() => network.expectOne('/payments'), { timeout: 10_000, interval: 1 });
const keyOf = (attempted: TestRequest) => attempted.request.headers.get('Idempotency-Key');
const refuse = (attempted: TestRequest, status: number, headers = {}) =>
  attempted.flush({}, { status, statusText: 'Refused', headers });
const unfinished = async () => (await payments.unfinished()).map(({ name }) => name);

/** The server charged, but the page is gone before it heard so. */
async function reloadInMidPayment(payment: object = PAYMENT) {
  const listening: Subscription = payments.pay('order-17', '/payments', payment).subscribe();
  const key = keyOf(await attempt());
  listening.unsubscribe();
  load({ attempts: 1 });
  return key;
}

beforeEach(() => {
  database = `test-${tests++}`;
  load();
});

it('pays under one key, kept for the retries and forgotten once it is paid', async () => {
  const paid = pay();
  const lost = await attempt();
  expect(await unfinished()).toEqual(['order-17']);
  lost.error(new ProgressEvent('error'));
  const second = await attempt();
  second.flush({ charge: 1 });

  expect(await paid).toEqual({ charge: 1 });
  expect(second.request.body).toEqual(PAYMENT);
  expect(keyOf(second)).toBe(keyOf(lost));
  expect(await unfinished()).toEqual([]);
});

it('repeats under the same key after a reload in mid-payment', async () => {
  const key = await reloadInMidPayment();
  expect(await unfinished()).toEqual(['order-17']);

  const paid = pay();
  const repeat = await attempt();
  repeat.flush({ charge: 1 }, { headers: { 'Idempotent-Replayed': 'true' } });

  expect(await paid).toEqual({ charge: 1 });
  expect(keyOf(repeat)).toBe(key);
  expect(await unfinished()).toEqual([]);
});

it('gives two clicks the same key', async () => {
  const both = [pay(), pay()];
  const attempts: TestRequest[] = [];
  await vi.waitFor(() => {
    attempts.push(...network.match('/payments'));
    expect(attempts.length).toBe(2);
  }, 10_000);
  attempts.forEach((attempted) => attempted.flush({ charge: 1 }));

  expect(await Promise.all(both)).toEqual([{ charge: 1 }, { charge: 1 }]);
  expect(new Set(attempts.map(keyOf)).size).toBe(1);
});

it('gives an edited payment, another order and another address keys of their own', async () => {
  const keys = [await reloadInMidPayment()];
  for (const [order, url, payment] of [
    ['order-17', '/payments', { ...PAYMENT, amount: 43 }],
    ['order-18', '/payments', PAYMENT],
    ['order-17', '/refunds', PAYMENT],
  ] as const) {
    payments.pay(order, url, payment).subscribe();
    keys.push(keyOf(await vi.waitFor(() => network.expectOne(url))));
  }

  expect(new Set(keys).size).toBe(4);
});

it('sends the payment as it was, even if the form is edited before it is sent', async () => {
  const form = { ...PAYMENT };
  payments.pay('order-17', '/payments', form).subscribe();
  form.amount = 99;

  expect((await attempt()).request.body).toEqual(PAYMENT);
});

describe('a refusal', () => {
  it('of the first attempt settles the payment', async () => {
    const paid = pay();
    refuse(await attempt(), 402);

    await expect(paid).rejects.toMatchObject({ status: 402 });
    expect(await unfinished()).toEqual([]);
  });

  it('after a reload in mid-payment does not forget the key', async () => {
    const key = await reloadInMidPayment();
    const refused = pay();
    refuse(await attempt(), 401);
    await expect(refused).rejects.toBeInstanceOf(HttpErrorResponse);

    void pay();
    expect(keyOf(await attempt())).toBe(key);
  });

  it('after a failure that was retried does not forget the key', async () => {
    const refused = pay();
    refuse(await attempt(), 500);
    refuse(await attempt(), 401);
    await expect(refused).rejects.toMatchObject({ status: 401 });

    expect(await unfinished()).toEqual(['order-17']);
  });

  it('that is a replay settles the payment', async () => {
    await reloadInMidPayment();
    const refused = pay();
    refuse(await attempt(), 402, { 'Idempotent-Replayed': 'true' });
    await expect(refused).rejects.toMatchObject({ status: 402 });

    expect(await unfinished()).toEqual([]);
  });
});

it.each([
  ['fetch', new HttpResponse({ body: '<form>', url: 'http://localhost:3000/payments', redirected: true })],
  ['XMLHttpRequest', new HttpResponse({ body: '<form>', url: 'http://localhost:3000/login' })],
])('keeps the key after a redirection that %s followed, where an attempt is in doubt', async (_, answer) => {
  const key = await reloadInMidPayment();
  const signIn = pay();
  (await attempt()).event(answer);
  await signIn;

  void pay();
  expect(keyOf(await attempt())).toBe(key);
});

it.each([0, 409, 500, 503])('keeps the key after a final %d', async (status) => {
  load({ attempts: 1 });
  const failed = pay();
  const sent = await attempt();
  if (status) refuse(sent, status);
  else sent.error(new ProgressEvent('error'));
  await expect(failed).rejects.toMatchObject({ status });

  void pay();
  expect(keyOf(await attempt())).toBe(keyOf(sent));
});

it('does not use a key that may no longer protect, until somebody looked', async () => {
  const old = await reloadInMidPayment();
  load({ maxAge: -1 });
  await expect(pay()).rejects.toMatchObject({ name: 'KeyOutlived' });
  network.expectNone('/payments');

  load();
  await payments.forget('order-17');
  void pay();
  expect(keyOf(await attempt())).not.toBe(old);
});

it('sends nothing where no key can be kept', async () => {
  vi.stubGlobal('indexedDB', undefined);
  const failed = pay();
  await expect(failed).rejects.toMatchObject({ name: 'KeyNotKept' });
  vi.unstubAllGlobals();
  network.expectNone('/payments');
});

it('does not lose a receipt to a storage that fails at the end', async () => {
  const paid = pay();
  const sent = await attempt();
  vi.stubGlobal('indexedDB', undefined);
  sent.flush({ charge: 1 });

  expect(await paid).toEqual({ charge: 1 });
  vi.unstubAllGlobals();
});
